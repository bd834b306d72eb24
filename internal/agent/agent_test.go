// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func valid() *Config {
	blob := Blob{Digest: "sha256:" + strings.Repeat("0f", 32), Size: 1}
	return &Config{
		Network: Network{
			MAC: "52:54:00:00:00:02", Address: netip.MustParsePrefix("192.168.89.1/24"),
			RangeStart: netip.MustParseAddr("192.168.89.100"), RangeEnd: netip.MustParseAddr("192.168.89.200"), LeaseSeconds: 600,
		},
		Programs: []Program{{Architecture: "x86_64", Name: "ipxe.efi", Blob: blob}},
		Machines: []Machine{
			{
				UID: "u1", Name: "a", Hostname: "a", MAC: "52:54:00:00:01:01", Address: netip.MustParseAddr("192.168.89.11"), Architecture: "x86_64",
				Boot: BootInstall, Attempt: "1", Token: "0123456789012345678901", Kernel: blob, Initrd: blob, Overlay: blob, Image: blob, ImagePin: blob.Digest,
			},
			{
				UID: "u2", Name: "b", Hostname: "b.lab.internal", MAC: "52:54:00:00:01:02", Address: netip.MustParseAddr("192.168.89.12"), Architecture: "aarch64",
				Boot: BootDisk, Attempt: "1", Token: "0123456789012345678902",
			},
		},
	}
}

func TestValidate(t *testing.T) {
	if err := valid().Validate(); err != nil {
		t.Fatalf("the valid document: %v", err)
	}
	for name, c := range map[string]struct {
		spoil func(*Config)
		want  string
	}{
		"no network":          {func(c *Config) { c.Network = Network{} }, "network.address"},
		"IPv6":                {func(c *Config) { c.Network.Address = netip.MustParsePrefix("fd00::1/64") }, "network.address"},
		"network address":     {func(c *Config) { c.Network.Address = netip.MustParsePrefix("192.168.89.0/24") }, "network or broadcast"},
		"range outside":       {func(c *Config) { c.Network.RangeEnd = netip.MustParseAddr("192.168.90.1") }, "network.rangeEnd"},
		"range reversed":      {func(c *Config) { c.Network.RangeStart = netip.MustParseAddr("192.168.89.250") }, "before rangeStart"},
		"broadcast":           {func(c *Config) { c.Network.RangeEnd = netip.MustParseAddr("192.168.89.255") }, "network.rangeEnd"},
		"short lease":         {func(c *Config) { c.Network.LeaseSeconds = 59 }, "leaseSeconds"},
		"MTU":                 {func(c *Config) { c.Network.MTU = 100 }, "network.mtu"},
		"MAC":                 {func(c *Config) { c.Machines[0].MAC = "x" }, "machines[0] (a).mac"},
		"multicast MAC":       {func(c *Config) { c.Machines[0].MAC = "01:00:5e:00:00:01" }, "unicast"},
		"MAC twice":           {func(c *Config) { c.Machines[1].MAC = strings.ToUpper(c.Machines[0].MAC) }, "already used by machines[0]"},
		"server's MAC":        {func(c *Config) { c.Machines[1].MAC = c.Network.MAC }, "server's own"},
		"address twice":       {func(c *Config) { c.Machines[1].Address = c.Machines[0].Address }, "already used"},
		"server's address":    {func(c *Config) { c.Machines[1].Address = c.Network.Address.Addr() }, "server's own"},
		"address outside":     {func(c *Config) { c.Machines[1].Address = netip.MustParseAddr("10.0.0.1") }, "machines[1] (b).address"},
		"no address":          {func(c *Config) { c.Machines[1].Address = netip.Addr{} }, "machines[1] (b).address"},
		"UID twice":           {func(c *Config) { c.Machines[1].UID = "u1" }, "uid u1 is already used"},
		"token short":         {func(c *Config) { c.Machines[1].Token = "short" }, "token"},
		"token with slash":    {func(c *Config) { c.Machines[1].Token = "0123456789012345678/01" }, "token"},
		"hostname":            {func(c *Config) { c.Machines[1].Hostname = "a_b" }, "hostname"},
		"hostname dots":       {func(c *Config) { c.Machines[1].Hostname = "a..b" }, "hostname"},
		"architecture":        {func(c *Config) { c.Machines[1].Architecture = "riscv64" }, "architecture"},
		"boot":                {func(c *Config) { c.Machines[1].Boot = "Maybe" }, "boot"},
		"attempt":             {func(c *Config) { c.Machines[1].Attempt = "" }, "attempt"},
		"no kernel":           {func(c *Config) { c.Machines[0].Kernel = Blob{} }, "kernel.digest"},
		"no pin":              {func(c *Config) { c.Machines[0].ImagePin = "" }, "imagePin"},
		"size of a blob":      {func(c *Config) { c.Machines[0].Kernel.Size = 2 }, "two sizes"},
		"handoff":             {func(c *Config) { c.Machines[0].Handoff = "Jump" }, "handoff"},
		"program name":        {func(c *Config) { c.Programs[0].Name = "../ipxe.efi" }, "programs[0].name"},
		"program twice":       {func(c *Config) { c.Programs = append(c.Programs, c.Programs[0]) }, "twice"},
		"template too large":  {func(c *Config) { c.Machines[0].UserDataTemplate = strings.Repeat("x", MaxTemplateBytes+1) }, "userDataTemplate"},
		"DNS is no IPv4":      {func(c *Config) { c.Network.DNS = []netip.Addr{netip.MustParseAddr("::1")} }, "dns[0]"},
		"prefix is too small": {func(c *Config) { c.Network.Address = netip.MustParsePrefix("192.168.89.1/31") }, "network.address"},
	} {
		t.Run(name, func(t *testing.T) {
			config := valid()
			c.spoil(config)
			err := config.Validate()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), config.Machines[0].Token) {
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
}

func TestCredentialsSurviveASecret(t *testing.T) {
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
	if err != nil || renew.Before(now.Add(200*24*time.Hour)) || renew.After(now.Add(credentialsValid)) {
		t.Errorf("to be renewed at %v, %v", renew, err)
	}
	data := c.Encode()
	delete(data, FileServerKey)
	if _, err := DecodeCredentials(data); err == nil {
		t.Error("credentials without a key were taken")
	}
	other, err := NewCredentials(now)
	if err != nil {
		t.Fatal(err)
	}
	data = c.Encode()
	data[FileCA] = other.CA
	if _, err := DecodeCredentials(data); err == nil {
		t.Error("credentials of another authority were taken")
	}
}

// A guest without a hardware clock believes to be years back.
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
		t.Errorf("the server believes in %v, its certificate is of %v", now, future)
	}
}
