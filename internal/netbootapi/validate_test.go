// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain ignores connections whose request was refused before its end: net/http waits
// half a second before it closes them.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

func valid() *ServerConfig {
	return &ServerConfig{
		Network: Network{
			MAC: "52:54:00:00:00:02", Address: netip.MustParsePrefix("192.168.89.1/24"),
			RangeStart: netip.MustParseAddr("192.168.89.100"), RangeEnd: netip.MustParseAddr("192.168.89.200"), LeaseSeconds: 600,
		},
		Programs: []Program{{Architecture: "x86_64", Name: "ipxe.efi", Blob: validFile()}},
		TextKey:  []byte("0123456789abcdef"),
	}
}

func validFile() Blob { return Blob{Digest: "sha256:" + strings.Repeat("0f", 32), Size: 1} }

func validText() Blob { return TextBlob(valid().TextKey, "#cloud-config") }

// validMachines returns one machine that is installed and one that has been.
func validMachines() (install, disk *Machine) {
	blob := validFile()
	install = &Machine{
		UID: "u1",
		Content: Content{
			Name: "a", Hostname: "a", MAC: "52:54:00:00:01:01", Address: netip.MustParseAddr("192.168.89.11"), Architecture: "x86_64",
			Kernel: blob, Initrd: blob, Overlay: blob, Image: blob, ImagePin: blob.Digest, UserDataTemplate: validText(),
		},
		Control: Control{Boot: BootInstall, Attempt: "1", Token: "0123456789012345678901", SeedToken: "seed-0123456789012345678901"},
	}
	disk = &Machine{
		UID: "u2",
		Content: Content{
			Name: "b", Hostname: "b.lab.internal", MAC: "52:54:00:00:01:02", Address: netip.MustParseAddr("192.168.89.12"),
			Architecture: "aarch64",
		},
		Control: Control{Boot: BootDisk, Attempt: "1", Token: "0123456789012345678902", SeedToken: "seed-0123456789012345678902"},
	}
	return install, disk
}

func TestValidateServerConfig(t *testing.T) {
	if err := valid().Validate(); err != nil {
		t.Fatalf("Validate of a valid config: got error %v, want none", err)
	}
	for name, c := range map[string]struct {
		spoil func(*ServerConfig)
		want  string
	}{
		"no network":          {func(c *ServerConfig) { c.Network = Network{} }, "network.address"},
		"IPv6":                {func(c *ServerConfig) { c.Network.Address = netip.MustParsePrefix("fd00::1/64") }, "network.address"},
		"network address":     {func(c *ServerConfig) { c.Network.Address = netip.MustParsePrefix("192.168.89.0/24") }, "network or broadcast"},
		"range outside":       {func(c *ServerConfig) { c.Network.RangeEnd = netip.MustParseAddr("192.168.90.1") }, "network.rangeEnd"},
		"range reversed":      {func(c *ServerConfig) { c.Network.RangeStart = netip.MustParseAddr("192.168.89.250") }, "before rangeStart"},
		"broadcast":           {func(c *ServerConfig) { c.Network.RangeEnd = netip.MustParseAddr("192.168.89.255") }, "network.rangeEnd"},
		"short lease":         {func(c *ServerConfig) { c.Network.LeaseSeconds = 59 }, "leaseSeconds"},
		"MTU":                 {func(c *ServerConfig) { c.Network.MTU = 100 }, "network.mtu"},
		"MAC":                 {func(c *ServerConfig) { c.Network.MAC = "x" }, "network.mac"},
		"program name":        {func(c *ServerConfig) { c.Programs[0].Name = "../ipxe.efi" }, "programs[0].name"},
		"program twice":       {func(c *ServerConfig) { c.Programs = append(c.Programs, c.Programs[0]) }, "twice"},
		"program's digest":    {func(c *ServerConfig) { c.Programs[0].Blob = validText() }, "programs[0].blob.digest"},
		"program's size":      {func(c *ServerConfig) { c.Programs[0].Blob.Size = 0 }, "programs[0].blob.size"},
		"architecture":        {func(c *ServerConfig) { c.Programs[0].Architecture = "riscv64" }, "programs[0].architecture"},
		"DNS is IPv6":         {func(c *ServerConfig) { c.Network.DNS = []netip.Addr{netip.MustParseAddr("::1")} }, "dns[0]"},
		"prefix is too small": {func(c *ServerConfig) { c.Network.Address = netip.MustParsePrefix("192.168.89.1/31") }, "network.address"},
		"no text key":         {func(c *ServerConfig) { c.TextKey = nil }, "textKey"},
		"short text key":      {func(c *ServerConfig) { c.TextKey = []byte("0123456789abcde") }, "textKey: 15 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			config := valid()
			c.spoil(config)
			err := config.Validate()
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one that contains %q", err, c.want)
			}
			if err != nil && len(config.TextKey) > 0 && strings.Contains(err.Error(), string(config.TextKey)) {
				t.Errorf("got error %v, want one without the key", err)
			}
		})
	}
}

func TestValidateMachine(t *testing.T) {
	network := &valid().Network
	install, disk := validMachines()
	for _, m := range []*Machine{install, disk} {
		if err := m.Validate(network); err != nil {
			t.Fatalf("Validate of a valid machine: got error %v, want none", err)
		}
	}
	for name, c := range map[string]struct {
		spoil func(install, disk *Machine)
		want  string
	}{
		"MAC":                 {func(m, _ *Machine) { m.MAC = "x" }, "mac"},
		"multicast MAC":       {func(m, _ *Machine) { m.MAC = "01:00:5e:00:00:01" }, "unicast"},
		"server's MAC":        {func(_, m *Machine) { m.MAC = strings.ToUpper(network.MAC) }, "server's MAC address"},
		"server's address":    {func(_, m *Machine) { m.Address = network.Address.Addr() }, "server's address"},
		"address outside":     {func(_, m *Machine) { m.Address = netip.MustParseAddr("10.0.0.1") }, "address"},
		"no address":          {func(_, m *Machine) { m.Address = netip.Addr{} }, "address"},
		"UID":                 {func(_, m *Machine) { m.UID = "../x" }, "uid"},
		"token short":         {func(_, m *Machine) { m.Token = "short" }, "token"},
		"no seed token":       {func(m, _ *Machine) { m.SeedToken = "" }, "seedToken"},
		"one token twice":     {func(m, _ *Machine) { m.SeedToken = m.Token }, "seedToken"},
		"token with slash":    {func(_, m *Machine) { m.Token = "0123456789012345678/01" }, "token"},
		"hostname":            {func(_, m *Machine) { m.Hostname = "a_b" }, "hostname"},
		"hostname dots":       {func(_, m *Machine) { m.Hostname = "a..b" }, "hostname"},
		"architecture":        {func(_, m *Machine) { m.Architecture = "riscv64" }, "architecture"},
		"boot":                {func(_, m *Machine) { m.Boot = "Maybe" }, "boot"},
		"attempt":             {func(_, m *Machine) { m.Attempt = "" }, "attempt"},
		"long attempt":        {func(_, m *Machine) { m.Attempt = strings.Repeat("x", MaxIDBytes+1) }, "attempt: 257 bytes"},
		"long power-on":       {func(_, m *Machine) { m.PowerOn = strings.Repeat("x", MaxIDBytes+1) }, "powerOn"},
		"long instance ID":    {func(_, m *Machine) { m.InstanceID = strings.Repeat("x", MaxIDBytes+1) }, "instanceID"},
		"long profile digest": {func(_, m *Machine) { m.ProfileDigest = strings.Repeat("x", MaxIDBytes+1) }, "profileDigest"},
		"declared key":        {func(_, m *Machine) { m.Declared = &Declaration{Key: strings.Repeat("x", maxDeclaredBytes+1)} }, "declared"},
		"declared field": {func(_, m *Machine) {
			m.Declared = &Declaration{Fields: map[string]string{"a": strings.Repeat("x", maxDeclaredBytes)}}
		}, "declared: a field has 129 bytes"},
		"declared fields": {func(_, m *Machine) {
			m.Declared = &Declaration{Fields: map[string]string{}}
			for i := range maxDeclaredFields + 1 {
				m.Declared.Fields[strings.Repeat("x", i)] = ""
			}
		}, "declared: 65 fields"},
		"no kernel":           {func(m, _ *Machine) { m.Kernel = Blob{} }, "kernel.digest"},
		"no pin":              {func(m, _ *Machine) { m.ImagePin = "" }, "imagePin"},
		"size of a blob":      {func(m, _ *Machine) { m.Kernel.Size = 0 }, "kernel.size"},
		"file that is unused": {func(_, m *Machine) { m.Image = Blob{Digest: "x", Size: 1} }, "image.digest"},
		"text as a file":      {func(m, _ *Machine) { m.Image = validText() }, "image.digest"},
		"file as a text":      {func(m, _ *Machine) { m.UserDataTemplate = validFile() }, "userDataTemplate.digest"},
		"handoff":             {func(m, _ *Machine) { m.Handoff = "Jump" }, "handoff"},
		"hint too long":       {func(m, _ *Machine) { m.RootDisk.Serial = strings.Repeat("x", MaxIDBytes+1) }, "rootDisk.serial"},
		"hint is not text":    {func(m, _ *Machine) { m.Root.Label = "\xff" }, "root.label"},
		"negative size":       {func(m, _ *Machine) { m.RootDisk.MinSize = -1 }, "rootDisk.minSize"},
		"number and label":    {func(m, _ *Machine) { m.Root = RootPartition{Number: 1, Label: "x"} }, "root: wants"},
		"cleaning":            {func(m, _ *Machine) { m.Cleaning = "Some" }, "cleaning"},
		"template too large":  {func(m, _ *Machine) { m.UserDataTemplate.Size = MaxTextBytes + 1 }, "userDataTemplate.size"},
		"script too large":    {func(_, m *Machine) { m.IPXETemplate = Blob{validText().Digest, MaxTextBytes + 1} }, "ipxeTemplate.size"},
		"network too large":   {func(_, m *Machine) { m.NetworkConfigTemplate = Blob{validText().Digest, MaxTextBytes + 1} }, "networkConfigTemplate.size"},
		"keys too large":      {func(_, m *Machine) { m.SSHAuthorizedKeys = Blob{validText().Digest, MaxKeysBytes + 1} }, "sshAuthorizedKeys.size"},
		"empty text":          {func(m, _ *Machine) { m.UserDataTemplate.Size = 0 }, "userDataTemplate.size"},
	} {
		t.Run(name, func(t *testing.T) {
			install, disk := validMachines()
			tokens := []string{install.Token, disk.Token, disk.SeedToken}
			c.spoil(install, disk)
			err := errors.Join(install.Validate(network), disk.Validate(network))
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one that contains %q", err, c.want)
			}
			for _, token := range append(tokens, disk.Token) {
				if err != nil && strings.Contains(err.Error(), token) && token != "short" {
					t.Errorf("got error %v, want one without the token", err)
				}
			}
		})
	}
}

func TestCredentialsEncodeToSecret(t *testing.T) {
	now := time.Now()
	c, err := NewCredentials(now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := DecodeCredentials(c.Encode())
	if err != nil {
		t.Fatal(err)
	}
	renew, err := again.RenewAt()
	if err != nil {
		t.Fatal(err)
	}
	if least := now.Add(200 * 24 * time.Hour); renew.Before(least) {
		t.Errorf("RenewAt: got %v, want at least %v", renew, least)
	}
	if most := now.Add(credentialsValid); renew.After(most) {
		t.Errorf("RenewAt: got %v, want at most %v", renew, most)
	}
	data := c.Encode()
	delete(data, FileServerKey)
	if _, err := DecodeCredentials(data); err == nil {
		t.Error("credentials without a key: got no error, want one")
	}
	other, err := NewCredentials(now)
	if err != nil {
		t.Fatal(err)
	}
	data = c.Encode()
	data[FileCA] = other.CA
	if _, err := DecodeCredentials(data); err == nil {
		t.Error("credentials of another authority: got no error, want one")
	}
}

// A guest without a hardware clock may boot with a time years in the past.
func TestServerClockIsNeverBeforeItsCertificate(t *testing.T) {
	future := time.Now().Add(10 * 365 * 24 * time.Hour)
	c, err := NewCredentials(future)
	if err != nil {
		t.Fatal(err)
	}
	config, err := ServerTLS(c.CA, c.ServerCrt, c.ServerKey)
	if err != nil {
		t.Fatal(err)
	}
	if now := config.Time(); now.Before(future.Add(-credentialsSkew)) || now.After(future.Add(time.Hour)) {
		t.Errorf("got the server's time %v, want about %v, when its certificate was made", now, future)
	}
}
