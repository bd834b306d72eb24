// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/agent/agenttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit is how long anything may take; it is far above what it takes.
const limit = 2 * time.Minute

// watcher collects what a Hub tells.
type watcher struct {
	mu    sync.Mutex
	woken map[string]int // times by machine, "" for the server itself
	news  chan struct{}
}

func newHub(t *testing.T) (*Hub, *watcher) {
	t.Helper()
	w := &watcher{woken: map[string]int{}, news: make(chan struct{}, 1)}
	h := NewHub(Options{Log: logr.Discard(), Changed: func(_ string, machines []string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, m := range append(machines, "") {
			w.woken[m]++
		}
		nudge(w.news)
	}})
	t.Cleanup(h.Close)
	return h, w
}

func (w *watcher) times(machine string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.woken[machine]
}

// until waits for an observation that satisfies ok. It looks only when the Hub
// said that there is something to see.
func (w *watcher) until(t *testing.T, h *Hub, what string, ok func(Observation) bool) Observation {
	t.Helper()
	timeout := time.After(limit)
	for {
		if o := h.Observe("s"); ok(o) {
			return o
		}
		select {
		case <-w.news:
		case <-timeout:
			t.Fatalf("%s: not seen; last %+v", what, h.Observe("s"))
		}
	}
}

func connected(o Observation) bool { return o.Connected }

func inForce(o Observation) bool {
	return o.Connected && o.WantedDigest != "" && o.State.ConfigDigest == o.WantedDigest
}

func connect(t *testing.T, h *Hub, s *agenttest.Server) {
	t.Helper()
	if err := h.Connect("s", s.Address(), agent.Trust{Current: s.Credentials()}); err != nil {
		t.Fatal(err)
	}
}

// document names what is to be served; lease tells one from another.
func document(lease int, blobs ...agent.Blob) *agent.Config {
	c := &agent.Config{Network: agent.Network{
		MAC: "52:54:00:00:00:01", Address: netip.MustParsePrefix("10.88.0.1/24"), LeaseSeconds: lease,
		RangeStart: netip.MustParseAddr("10.88.0.192"), RangeEnd: netip.MustParseAddr("10.88.0.254"),
	}}
	for i, b := range blobs {
		c.Programs = append(c.Programs, agent.Program{
			Architecture: []string{"x86_64", "aarch64"}[i], Name: []string{"a", "b"}[i], Blob: b})
	}
	return c
}

func blob(t *testing.T, content []byte) (agent.Blob, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	return agent.Blob{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content))}, path
}

func TestTheDocumentIsPushedOnce(t *testing.T) {
	h, w := newHub(t)
	server := agenttest.Start(t, agenttest.Options{})
	if o := h.Observe("s"); o.Connected || o.Error != nil || o.WantedDigest != "" {
		t.Errorf("a server that nobody knows: %+v", o)
	}
	h.Push("s", document(60), nil) // nobody to tell yet
	connect(t, h, server)
	w.until(t, h, "connected", connected)
	for range 3 {
		h.Push("s", document(60), nil)
		connect(t, h, server) // the same again is nothing
	}
	w.until(t, h, "in force", inForce)
	// States that come and go do not lead to another push.
	for i := range 5 {
		server.Update(func(s *agent.State) { s.Version = strings.Repeat("v", i+1) })
		w.until(t, h, "the new state", func(o Observation) bool { return len(o.State.Version) == i+1 })
	}
	h.Push("s", document(61), nil)
	w.until(t, h, "the next in force", inForce)
	var leases []int
	for _, c := range server.Configs() {
		leases = append(leases, c.Network.LeaseSeconds)
	}
	if !slices.Equal(leases, []int{60, 61}) {
		t.Errorf("pushed %v, want each document once", leases)
	}
}

// Of documents that come faster than they are taken, the last is what stays.
func TestASupersededDocument(t *testing.T) {
	h, w := newHub(t)
	server := agenttest.Start(t, agenttest.Options{})
	connect(t, h, server)
	w.until(t, h, "connected", connected)
	for lease := 60; lease < 90; lease++ {
		h.Push("s", document(lease), nil)
	}
	w.until(t, h, "in force", inForce)
	configs := server.Configs()
	if last := configs[len(configs)-1].Network.LeaseSeconds; last != 89 {
		t.Errorf("the last document in force is %d of 89", last)
	}
}

func TestARefusedDocument(t *testing.T) {
	h, w := newHub(t)
	server := agenttest.Start(t, agenttest.Options{})
	connect(t, h, server)
	h.Push("s", document(1), nil) // a lease of a second is invalid
	w.until(t, h, "refused", func(o Observation) bool { return errors.Is(o.PushError, agent.ErrInvalid) })
	h.Push("s", document(60), nil)
	if o := w.until(t, h, "corrected", inForce); o.PushError != nil {
		t.Errorf("the error stays: %v", o.PushError)
	}
	// Another error may pass by itself.
	server.RefuseConfigs(errors.New("disk full"))
	h.Push("s", document(61), nil)
	w.until(t, h, "failed", func(o Observation) bool {
		return o.PushError != nil && strings.Contains(o.PushError.Error(), "disk full")
	})
	server.RefuseConfigs(nil)
	if o := w.until(t, h, "taken", inForce); o.PushError != nil {
		t.Errorf("the error stays: %v", o.PushError)
	}
}

func TestANetbootdThatGoesAndComesBack(t *testing.T) {
	h, w := newHub(t)
	server := agenttest.Start(t, agenttest.Options{})
	connect(t, h, server)
	h.Push("s", document(60), nil)
	w.until(t, h, "in force", inForce)
	server.UpdateMachine("m", func(m *agent.MachineState) { m.Attempt = "1" })
	w.until(t, h, "the machine", func(o Observation) bool { return o.State.Machines["m"].Attempt == "1" })

	woken := w.times("m")
	server.Stop()
	o := w.until(t, h, "gone", func(o Observation) bool { return !o.Connected })
	if o.Error == nil || o.State.Machines["m"].Attempt != "1" {
		t.Errorf("after the connection was lost: %+v", o)
	}
	if w.times("m") == woken {
		t.Error("nobody was told that the machine's state may be out of date")
	}
	// It comes back having lost everything, at the same address.
	again := agenttest.Start(t, agenttest.Options{Address: server.Address(), Credentials: server.Credentials()})
	w.until(t, h, "in force again", func(o Observation) bool { return inForce(o) && len(o.State.Machines) == 0 })
	if n := len(again.Configs()); n != 1 {
		t.Errorf("pushed %d times to the one that came back", n)
	}
}

// A netbootd that hangs takes connections without a greeting, and keeps those
// it has and says nothing.
func TestANetbootdThatHangs(t *testing.T) {
	h, w := newHub(t)
	h.options.Patience = 100 * time.Millisecond // less than a heartbeat
	silent := func(o Observation) bool { return !o.Connected && errors.Is(o.Error, agent.ErrSilent) }
	frozen, err := net.Listen("tcp", "127.0.0.1:0") // its backlog takes connections
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := agent.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect("s", frozen.Addr().String(), agent.Trust{Current: credentials}); err != nil {
		t.Fatal(err)
	}
	w.until(t, h, "frozen", silent)
	_ = frozen.Close()
	agenttest.Start(t, agenttest.Options{Address: frozen.Addr().String(), Credentials: credentials})
	w.until(t, h, "connected", connected)
	w.until(t, h, "silent", silent)
	w.until(t, h, "connected again", connected)
}

func TestAFirstFailureIsTold(t *testing.T) {
	h, w := newHub(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	credentials, err := agent.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect("s", address, agent.Trust{Current: credentials}); err != nil {
		t.Fatal(err)
	}
	w.until(t, h, "refused", func(o Observation) bool { return o.Error != nil && w.times("") > 0 })
	agenttest.Start(t, agenttest.Options{Address: address, Credentials: credentials})
	if o := w.until(t, h, "connected", connected); o.Error != nil {
		t.Errorf("the error stays: %v", o.Error)
	}
}

func TestWhoIsWoken(t *testing.T) {
	h, w := newHub(t)
	server := agenttest.Start(t, agenttest.Options{})
	content, path := blob(t, []byte("content"))
	connect(t, h, server)
	server.Update(func(s *agent.State) { s.Machines = map[string]agent.MachineState{"a": {}, "b": {}} })
	w.until(t, h, "both", func(o Observation) bool { return len(o.State.Machines) == 2 })
	a, b := w.times("a"), w.times("b")
	server.UpdateMachine("a", func(m *agent.MachineState) { m.Attempt = "1" })
	w.until(t, h, "the change", func(o Observation) bool { return o.State.Machines["a"].Attempt == "1" })
	if w.times("a") == a || w.times("b") != b {
		t.Errorf("a was woken %d times and b %d times by a's change", w.times("a")-a, w.times("b")-b)
	}
	// A document and its content concern all.
	b = w.times("b")
	h.Push("s", document(60, content), map[string]string{content.Digest: path})
	w.until(t, h, "the content", func(o Observation) bool { return inForce(o) && len(o.State.MissingBlobs) == 0 && o.Upload == nil })
	if w.times("b") == b {
		t.Error("b was not told that the content has come")
	}
}

func TestMissingContentIsUploaded(t *testing.T) {
	h, w := newHub(t)
	server := agenttest.Start(t, agenttest.Options{})
	connect(t, h, server)
	first, firstPath := blob(t, bytes.Repeat([]byte("first "), 100_000))
	second, secondPath := blob(t, []byte("second"))
	h.Push("s", document(60, first, second), map[string]string{first.Digest: firstPath})
	w.until(t, h, "the first", func(o Observation) bool {
		return inForce(o) && slices.Equal(o.State.MissingBlobs, []agent.Blob{second}) && o.Upload == nil
	})
	// The same document again, and now it is known where the rest is.
	h.Push("s", document(60, first, second), map[string]string{first.Digest: firstPath, second.Digest: secondPath})
	w.until(t, h, "the second", func(o Observation) bool { return len(o.State.MissingBlobs) == 0 })
	for _, b := range []agent.Blob{first, second} {
		if got, ok := server.Blob(b.Digest); !ok || int64(len(got)) != b.Size {
			t.Errorf("%s is not there whole", b.Digest)
		}
	}
}

func TestAnUploadThatBreaksIsResumed(t *testing.T) {
	h, w := newHub(t)
	var mu sync.Mutex
	var sent []int64
	const cut = 300_000
	server := agenttest.Start(t, agenttest.Options{Upload: func(_ context.Context, _ string, content io.Reader) (io.Reader, error) {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, 0)
		attempt := len(sent) - 1
		counted := readerFunc(func(p []byte) (int, error) {
			n, err := content.Read(p)
			mu.Lock()
			defer mu.Unlock()
			sent[attempt] += int64(n)
			return n, err
		})
		if attempt == 0 {
			return io.MultiReader(io.LimitReader(counted, cut), readerFunc(func([]byte) (int, error) { return 0, errors.New("the line is cut") })), nil
		}
		return counted, nil
	}})
	connect(t, h, server)
	content, path := blob(t, bytes.Repeat([]byte("0123456789"), 100_000))
	h.Push("s", document(60, content), map[string]string{content.Digest: path})
	w.until(t, h, "the error", func(o Observation) bool { return o.Upload != nil && o.Upload.Error != nil })
	w.until(t, h, "the whole", func(o Observation) bool { return inForce(o) && len(o.State.MissingBlobs) == 0 && o.Upload == nil })
	mu.Lock()
	defer mu.Unlock()
	if len(sent) != 2 || sent[1] != content.Size-cut {
		t.Errorf("sent %v bytes of %d; want the second attempt to go on at %d", sent, content.Size, cut)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Content that cannot be sent does not keep other content back.
func TestARefusedPieceHoldsUpNoOther(t *testing.T) {
	h, w := newHub(t)
	bad, badPath := blob(t, []byte("will be changed"))
	good, goodPath := blob(t, []byte("good"))
	if err := os.WriteFile(badPath, []byte("was xx changed!"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := agenttest.Start(t, agenttest.Options{})
	connect(t, h, server)
	h.Push("s", document(60, bad, good), map[string]string{bad.Digest: badPath, good.Digest: goodPath})
	w.until(t, h, "the good one", func(o Observation) bool { return slices.Equal(o.State.MissingBlobs, []agent.Blob{bad}) })
	w.until(t, h, "the error", func(o Observation) bool { return o.Upload != nil && errors.Is(o.Upload.Error, agent.ErrDigest) })
	if err := os.WriteFile(badPath, []byte("will be changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.until(t, h, "the repaired one", func(o Observation) bool { return len(o.State.MissingBlobs) == 0 && o.Upload == nil })
}

func TestADocumentDoesNotWaitForAnUpload(t *testing.T) {
	h, w := newHub(t)
	begun, release := make(chan struct{}), make(chan struct{})
	server := agenttest.Start(t, agenttest.Options{Upload: func(ctx context.Context, _ string, content io.Reader) (io.Reader, error) {
		close(begun)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return content, nil
	}})
	connect(t, h, server)
	content, path := blob(t, []byte("content"))
	where := map[string]string{content.Digest: path}
	h.Push("s", document(60, content), where)
	<-begun
	h.Push("s", document(61, content), where)
	o := w.until(t, h, "in force", inForce)
	if len(o.State.MissingBlobs) != 1 || o.Upload == nil || o.Upload.Blob != content {
		t.Errorf("meanwhile: %+v", o)
	}
	close(release)
	w.until(t, h, "the content", func(o Observation) bool { return len(o.State.MissingBlobs) == 0 })
}

func TestAnotherAddressReplacesTheSession(t *testing.T) {
	h, w := newHub(t)
	old := agenttest.Start(t, agenttest.Options{})
	connect(t, h, old)
	h.Push("s", document(60), nil)
	w.until(t, h, "in force", inForce)
	old.UpdateMachine("m", func(m *agent.MachineState) { m.Attempt = "1" })
	w.until(t, h, "the machine", func(o Observation) bool { return o.State.Machines["m"].Attempt == "1" })

	moved := agenttest.Start(t, agenttest.Options{Credentials: old.Credentials()})
	connect(t, h, moved)
	if o := h.Observe("s"); o.Connected || o.State.Machines["m"].Attempt != "1" || o.WantedDigest == "" {
		t.Errorf("at once: %+v; want what was known, and not connected", o)
	}
	w.until(t, h, "in force at the new address", func(o Observation) bool { return inForce(o) && len(moved.Configs()) == 1 })
	h.Push("s", document(61), nil)
	w.until(t, h, "the next", func(o Observation) bool { return inForce(o) && len(moved.Configs()) == 2 })
	if n := len(old.Configs()); n != 1 {
		t.Errorf("the old one was told %d times", n)
	}
}

func TestForeignCredentialsAreNotTrusted(t *testing.T) {
	h, w := newHub(t)
	server := agenttest.Start(t, agenttest.Options{})
	others, err := agent.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect("s", server.Address(), agent.Trust{Current: others}); err != nil {
		t.Fatal(err)
	}
	w.until(t, h, "the refusal", func(o Observation) bool { return o.Error != nil })
	connect(t, h, server) // the right ones replace them
	w.until(t, h, "connected", connected)
}

func TestRemoveForgets(t *testing.T) {
	h, w := newHub(t)
	server := agenttest.Start(t, agenttest.Options{})
	connect(t, h, server)
	w.until(t, h, "connected", connected)
	h.Remove("s")
	h.Remove("s")
	h.Push("s", document(60), nil)
	if o := h.Observe("s"); o.Connected || o.WantedDigest != "" {
		t.Errorf("after Remove: %+v", o)
	}
	h.settled = time.Time{} // it is not new any more, and does not wait
	if _, err := h.Dial(t.Context(), "s", netip.MustParseAddrPort("10.88.0.10:22")); !errors.Is(err, errNotConnected) {
		t.Errorf("dialled through a server that was removed: %v", err)
	}
	connect(t, h, server)
	h.Push("s", document(60), nil)
	w.until(t, h, "in force", inForce)
}

func TestDial(t *testing.T) {
	h, w := newHub(t)
	server := agenttest.Start(t, agenttest.Options{Dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			_, _ = io.WriteString(there, "SSH-2.0-test\r\n")
		}()
		return here, nil
	}})
	// A manager that has just started is asked before it knows its servers.
	early := make(chan error, 1)
	go func() {
		_, err := h.Dial(t.Context(), "s", netip.MustParseAddrPort("10.88.0.10:22"))
		early <- err
	}()
	select {
	case err := <-early:
		t.Fatalf("a new Hub did not wait for its session: %v", err)
	case <-time.After(200 * time.Millisecond): // of ten seconds
	}
	connect(t, h, server)
	if err := <-early; errors.Is(err, errNotConnected) {
		t.Errorf("a new Hub did not wait for its session: %v", err)
	}
	c := document(60)
	c.Machines = []agent.Machine{{
		UID: "m", Name: "m", Hostname: "m", MAC: "52:54:00:00:00:10", Address: netip.MustParseAddr("10.88.0.10"), Architecture: "x86_64",
		Boot: agent.BootNone, Attempt: "1", Token: strings.Repeat("t", 22),
	}}
	h.Push("s", c, nil)
	w.until(t, h, "in force", inForce)
	conn, err := h.Dial(t.Context(), "s", netip.MustParseAddrPort("10.88.0.10:22"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "SSH-2.0-test\r\n" {
		t.Errorf("read %q, %v", got, err)
	}
}
