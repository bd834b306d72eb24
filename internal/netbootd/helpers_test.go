// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"bytes"
	"net/netip"
	"strings"
	"sync"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// labAddress is in the loopback network, of which every address is local, so each
// machine of the tests can have its own.
var labAddress = netip.MustParsePrefix("127.0.0.1/8")

func contentOf(name string, size int) []byte {
	return bytes.Repeat([]byte(name+"\n"), size/(len(name)+1)+1)[:size]
}

var contents = map[string][]byte{
	"program": contentOf("program", 5000), "kernel": contentOf("kernel", 100_001), "initrd": contentOf("initrd", 300_003),
	"overlay": contentOf("overlay", 40_000), "image": contentOf("image", 1_000_000),
}

func blobOf(name string) netbootapi.Blob {
	return netbootapi.Blob{Digest: netbootapi.Digest(contents[name]), Size: int64(len(contents[name]))}
}

var textKey = []byte("the key of the texts of the tests")

// texts holds what textOf has returned blobs of, by digest.
var texts sync.Map

// textOf returns the blob of a text, which uploads of the tests find by its digest.
func textOf(text string) netbootapi.Blob {
	blob := netbootapi.TextBlob(textKey, text)
	texts.Store(blob.Digest, text)
	return blob
}

// labSetup is everything that a manager puts.
type labSetup struct {
	netbootapi.ServerConfig
	Machines []netbootapi.Machine
}

// digest is the State.Server that the setup results in.
func (l *labSetup) digest() string { return netbootapi.Digest(l.Encode()) }

func labConfig() *labSetup {
	return &labSetup{
		ServerConfig: netbootapi.ServerConfig{
			Network: netbootapi.Network{
				MAC: "52:54:00:00:00:02", Address: labAddress,
				RangeStart: netip.MustParseAddr("127.1.0.1"), RangeEnd: netip.MustParseAddr("127.1.0.9"), LeaseSeconds: 600, MTU: 9000,
				DNS: []netip.Addr{netip.MustParseAddr("127.9.9.9")},
			},
			Programs: []netbootapi.Program{{Architecture: "x86_64", Name: "ipxe.efi", Blob: blobOf("program")}},
			TextKey:  textKey,
		},
		Machines: []netbootapi.Machine{machineConfig()},
	}
}

func machineConfig() netbootapi.Machine {
	return netbootapi.Machine{
		UID: "uid-1",
		Content: netbootapi.Content{
			Name: "target-1", Hostname: "target-1", MAC: "52:54:00:00:01:01", Address: netip.MustParseAddr("127.0.0.11"),
			Architecture: "x86_64", Kernel: blobOf("kernel"), Initrd: blobOf("initrd"), Overlay: blobOf("overlay"), Image: blobOf("image"),
			ImagePin: blobOf("image").Digest, ProfileDigest: "sha256:profile",
			RootDiskName: "data",
			Declared:     &netbootapi.Declaration{Key: "key", Fields: map[string]string{"spec.hostname": "0123456789abcdef"}},
			KernelArgs:   []string{"quiet"}, SSHUser: "lab", SSHAuthorizedKeys: textOf("ssh-ed25519 AAAA user\n"),
			UserDataTemplate: textOf("#cloud-config\nhostname: {{ .Hostname }}\n"),
		},
		Control: netbootapi.Control{
			Boot: netbootapi.BootInstall, Attempt: "a1", InstanceID: "target-1-a1", Token: "secret-token-0123456789", SeedToken: "secret-seed-0123456789x", PowerOn: "p1",
		},
	}
}

func entryOf(m *netbootapi.Machine) netbootapi.Entry {
	return netbootapi.NewEntry(&m.Content, m.Control)
}

// logBuffer collects what a server logs.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// observed is what a manager observes.
type observed struct {
	netbootapi.State
	Machines map[string]netbootapi.MachineState
}

func observedOf(o netbootapi.Observed) observed { return observed{o.State, o.Machines} }

// observe returns the whole state, and a channel that is closed at the next change.
func (k *stateStore) observe() (observed, <-chan struct{}) {
	u, changed := k.changes(netbootapi.Position{})
	var o netbootapi.Observed
	if err := o.Apply(u); err != nil {
		panic(err)
	}
	return observedOf(o), changed
}

// setConfig puts a setup in force whose content need not be stored.
func (k *stateStore) setConfig(c *labSetup) {
	k.putServer(c.Encode(), &c.ServerConfig)
	for i := range c.Machines {
		m := &c.Machines[i]
		if err := k.restoreMachine(m.UID, entryOf(m), netbootapi.MachineState{}); err != nil {
			panic(err)
		}
		if _, s := k.machine(m.UID); s.Problem != "" {
			panic(s.Problem)
		}
	}
}
