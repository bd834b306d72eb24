// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
)

// TestMain ignores connections whose request was refused before its end: net/http waits
// half a second before it closes them.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// limit is the timeout of every wait, far above the usual duration.
const limit = 2 * time.Minute

// watcher collects the calls of the Hub's callbacks.
type watcher struct {
	mu    sync.Mutex
	woken map[string]int // times by machine, "" for the server itself
	news  chan struct{}
}

func (w *watcher) count(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		w.woken[name]++
	}
	nudge(w.news)
}

// newHub returns a Hub, whose options edit may change, and its watcher. Each callback
// calls the Hub, as controllers do.
func newHub(t *testing.T, edit ...func(*Options)) (*Hub, *watcher) {
	t.Helper()
	w := &watcher{woken: map[string]int{}, news: make(chan struct{}, 1)}
	var h *Hub
	options := Options{
		Log:             logr.Discard(),
		ServerChanged:   func(server string) { h.Observe(server); w.count("") },
		MachinesChanged: func(uids []string) { h.ObserveMachine("s", uids[0]); w.count(uids...) },
	}
	for _, e := range edit {
		e(&options)
	}
	h = NewHub(options)
	t.Cleanup(h.Close)
	return h, w
}

func (w *watcher) times(machine string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.woken[machine]
}

// until waits for an observation that satisfies ok. It checks only after the Hub
// reported a change.
func (w *watcher) until(t *testing.T, h *Hub, what string, ok func(Observation) bool) Observation {
	t.Helper()
	return await(t, w, what, func() Observation { return h.Observe("s") }, ok)
}

// untilMachine is until for a machine.
func (w *watcher) untilMachine(t *testing.T, h *Hub, uid, what string, ok func(Machine) bool) Machine {
	t.Helper()
	return await(t, w, uid+": "+what, func() Machine { return h.ObserveMachine("s", uid) }, ok)
}

func await[V any](t *testing.T, w *watcher, what string, get func() V, ok func(V) bool) V {
	t.Helper()
	timeout := time.After(limit)
	for {
		if o := get(); ok(o) {
			return o
		}
		select {
		case <-w.news:
		case <-timeout:
			t.Fatalf("after %v: got observation %+v, want %s", limit, get(), what)
		}
	}
}

func connected(o Observation) bool { return o.Connected }

func inForce(o Observation) bool {
	return o.Connected && o.Wanted != "" && o.State.Server == o.Wanted
}

func machineInForce(m Machine) bool { return m.Connected && m.InForce }

func connect(t *testing.T, h *Hub, s *netbootdtest.Server) {
	t.Helper()
	if err := h.Connect("s", s.Address(), netbootapi.Trust{Current: s.Credentials()}); err != nil {
		t.Fatal(err)
	}
}

var textKey = []byte("0123456789abcdef")

// newConfig returns a config; different leases make different configs.
func newConfig(lease int, blobs ...netbootapi.Blob) netbootapi.ServerConfig {
	c := netbootapi.ServerConfig{
		Network: netbootapi.Network{
			MAC: "52:54:00:00:00:01", Address: netip.MustParsePrefix("10.88.0.1/16"), LeaseSeconds: lease,
			RangeStart: netip.MustParseAddr("10.88.255.192"), RangeEnd: netip.MustParseAddr("10.88.255.254"),
		},
		TextKey: textKey,
	}
	for i, b := range blobs {
		c.Programs = append(c.Programs, netbootapi.Program{
			Architecture: []string{"x86_64", "aarch64"}[i], Name: []string{"a", "b"}[i], Blob: b})
	}
	return c
}

// uidOf returns the UID of the nth machine.
func uidOf(n int) string { return fmt.Sprintf("m%03d", n) }

// newMachine returns the nth machine, which boots nothing.
func newMachine(n int) Desired {
	return Desired{
		Content: &netbootapi.Content{
			Name: uidOf(n), Hostname: uidOf(n), MAC: fmt.Sprintf("52:54:00:01:%02x:%02x", n>>8, n&255),
			Address: netip.AddrFrom4([4]byte{10, 88, byte(1 + n>>7), byte(1 + n&127)}), Architecture: "x86_64",
		},
		Control: netbootapi.Control{Boot: netbootapi.BootNone, Attempt: "1", Token: fmt.Sprintf("%s%05d", strings.Repeat("t", 22), n), SeedToken: fmt.Sprintf("%s%05d", strings.Repeat("s", 22), n)},
		Files:   map[string]string{}, Texts: map[string]string{},
	}
}

// userData sets a machine's user-data and returns its blob.
func userData(d *Desired, text string) netbootapi.Blob {
	b := netbootapi.TextBlob(textKey, text)
	d.Content.UserDataTemplate = b
	d.Texts[b.Digest] = text
	return b
}

// installs makes a machine install from a file that serves as all of its files.
func installs(d *Desired, b netbootapi.Blob, path string) {
	c := d.Content
	c.Kernel, c.Initrd, c.Overlay, c.Image, c.ImagePin = b, b, b, b, b.Digest
	d.Control.Boot = netbootapi.BootInstall
	d.Files[b.Digest] = path
}
