// SPDX-License-Identifier: Apache-2.0

package access_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for an event.
const patience = time.Minute

var machine = access.Ref{Namespace: "default", Kind: access.Target, Name: "target-1"}

// backend has one machine, with its files in dir and its SSH port at sshd.
type backend struct {
	dir        string
	sshd       string
	capacity   access.Capacity
	unobserved []access.Object
	broken     error
}

func (b *backend) check(m access.Ref) error {
	switch m.Name {
	case machine.Name:
		return nil
	case "off":
		return fmt.Errorf("it is powered off: %w", access.ErrUnavailable)
	case "broken":
		return errors.New("disk on fire")
	default:
		return fmt.Errorf("no such target: %w", access.ErrNotFound)
	}
}

func (b *backend) DialSSH(ctx context.Context, m access.Ref) (net.Conn, error) {
	if err := b.check(m); err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", b.sshd)
}

func (b *backend) SerialSocket(_ context.Context, m access.Ref) (string, error) {
	return filepath.Join(b.dir, "serial.sock"), b.check(m)
}

func (b *backend) SerialLog(_ context.Context, m access.Ref) (string, error) {
	return filepath.Join(b.dir, "serial.log"), b.check(m)
}

func (b *backend) Capacity(context.Context) (access.Capacity, error) {
	if b.capacity.Machines < 0 {
		return access.Capacity{}, fmt.Errorf("not counted: %w", access.ErrUnavailable)
	}
	return b.capacity, nil
}
func (b *backend) Unobserved(context.Context) ([]access.Object, error) { return b.unobserved, b.broken }

// serve runs a server until the test ends or calls the returned function.
func serve(t *testing.T, b *backend) (*access.Client, func()) {
	t.Helper()
	dir := pathstest.Short(t)
	b.dir = dir
	socket := filepath.Join(dir, "manager.sock")
	server, err := access.New(access.Options{Socket: socket, Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return access.NewClient(socket), stop
}

// expect reads from c until it receives want.
func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	buffer := make([]byte, 64<<10)
	for !bytes.Contains(got, []byte(want)) {
		got = got[max(0, len(got)-4096):]
		n, err := c.Read(buffer)
		got = append(got, buffer[:n]...)
		if err != nil {
			t.Fatalf("got %q and error %v, want %q", got[max(0, len(got)-4096):], err, want)
		}
	}
}

// sshd replies to each connection with the received text in upper case after EOF,
// which requires half-closed connections.
func sshd(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				fmt.Fprint(c, "SSH-2.0-test\r\n")
				text, err := io.ReadAll(c)
				if err == nil {
					_, _ = c.Write(bytes.ToUpper(text))
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); served.Wait() })
	return l.Addr().String()
}

func TestSSH(t *testing.T) {
	client, _ := serve(t, &backend{sshd: sshd(t)})
	conn, err := client.SSH(t.Context(), machine)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	expect(t, conn, "SSH-2.0-test\r\n")

	sent := strings.Repeat("abcdefg\n", 1<<17) // 1 MiB
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(conn, sent)
		if err == nil {
			err = conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		written <- err
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if string(got) != strings.ToUpper(sent) {
		t.Errorf("got %d bytes, want the %d sent bytes in upper case", len(got), len(sent))
	}
}

func TestServerStopEndsStreams(t *testing.T) {
	client, stop := serve(t, &backend{sshd: sshd(t)})
	conn, err := client.SSH(t.Context(), machine)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	expect(t, conn, "SSH-2.0-test\r\n")
	stop()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read = %d, %v; want the end of the stream", n, err)
	}
	if _, err := client.SSH(t.Context(), machine); !errors.Is(err, access.ErrNoManager) {
		t.Errorf("SSH after the stop = %v, want ErrNoManager", err)
	}
}

func TestErrorResponses(t *testing.T) {
	b := &backend{sshd: sshd(t)}
	client, _ := serve(t, b)
	tests := map[string]struct {
		machine access.Ref
		status  int
		text    string
	}{
		"unknown":      {access.Ref{Namespace: "default", Kind: access.Target, Name: "unknown"}, 404, "no such target"},
		"powered off":  {access.Ref{Namespace: "default", Kind: access.Target, Name: "off"}, 503, "powered off"},
		"broken":       {access.Ref{Namespace: "default", Kind: access.Server, Name: "broken"}, 500, "on fire"},
		"unknown kind": {access.Ref{Namespace: "default", Kind: "pods", Name: "x"}, 404, "kind of machine"},
		"escaped name": {access.Ref{Namespace: "default", Kind: access.Target, Name: "a/../b c"}, 404, "no such target"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			requests := map[string]func() error{
				"ssh":     func() error { return closed(client.SSH(t.Context(), tt.machine)) },
				"console": func() error { return closed(client.Console(t.Context(), tt.machine)) },
				"log":     func() error { return closed(client.Log(t.Context(), tt.machine, access.LogOptions{})) },
			}
			for endpoint, request := range requests {
				var response *access.Error
				if err := request(); !errors.As(err, &response) {
					t.Errorf("%s: got error %v, want an access.Error", endpoint, err)
				} else if response.Status != tt.status || !strings.Contains(response.Message, tt.text) {
					t.Errorf("%s: got %d %q, want %d and %q", endpoint, response.Status, response.Message, tt.status, tt.text)
				}
			}
		})
	}
	t.Run("machine without a console", func(t *testing.T) {
		var response *access.Error
		if err := closed(client.Console(t.Context(), machine)); !errors.As(err, &response) || response.Status != 503 {
			t.Errorf("got error %v, want status 503", err)
		}
	})
	t.Run("stream without upgrade", func(t *testing.T) {
		h := access.NewHandler(b, logr.Discard())
		defer h.Close()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/namespaces/default/targets/target-1/ssh", nil))
		if w.Code != http.StatusUpgradeRequired {
			t.Errorf("got status %d, want 426", w.Code)
		}
	})
}

func TestUnobserved(t *testing.T) {
	b := &backend{}
	client, stop := serve(t, b)
	got, err := client.Unobserved(t.Context())
	if err != nil || len(got) != 0 {
		t.Errorf("Unobserved of a manager that has observed all = %v, %v, want none", got, err)
	}
	b.unobserved = []access.Object{{Kind: "BareMetalTarget", Namespace: "default", Name: "target-1"}, {Kind: "BootProfile", Namespace: "x", Name: "y"}}
	got, err = client.Unobserved(t.Context())
	if diff := cmp.Diff(b.unobserved, got); err != nil || diff != "" {
		t.Errorf("Unobserved: got error %v, result (-want +got):\n%s", err, diff)
	}
	b.broken = errors.New("disk on fire")
	var response *access.Error
	if _, err := client.Unobserved(t.Context()); !errors.As(err, &response) || response.Status != 500 {
		t.Errorf("Unobserved of a manager that fails = %v, want status 500", err)
	}
	stop()
	if _, err := client.Unobserved(t.Context()); !errors.Is(err, access.ErrNoManager) {
		t.Errorf("Unobserved without a manager = %v, want ErrNoManager", err)
	}
}

func closed[C io.Closer](c C, err error) error {
	if err == nil {
		c.Close()
	}
	return err
}

func TestHandlerOverTCP(t *testing.T) {
	h := access.NewHandler(&backend{sshd: sshd(t)}, logr.Discard())
	server := httptest.NewServer(h)
	defer server.Close()
	defer h.Close()
	client := &access.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}}
	conn, err := client.SSH(t.Context(), machine)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	expect(t, conn, "SSH-2.0-test\r\n")
}

func TestServerSocket(t *testing.T) {
	dir := pathstest.Short(t)
	socket := filepath.Join(dir, "manager.sock")
	options := access.Options{Socket: socket, Backend: &backend{dir: dir}}

	// The socket of a killed manager is replaced.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	server, err := access.New(options)
	if err != nil {
		t.Fatalf("New with a stale socket = %v, want nil", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()

	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("got socket mode %o, want 600", info.Mode().Perm())
	}
	if _, err := access.New(options); err == nil || !strings.Contains(err.Error(), "another manager") {
		t.Errorf("New with the socket of a running manager = %v, want an error", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after the stop: got %v, want it removed", err)
	}
	if err := os.WriteFile(socket, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := access.New(options); err == nil {
		t.Error("New with a file at the socket path = nil, want an error")
	}
}

func TestNewRejectsNonLoopback(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:80", "localhost:0", "[::]:0"} {
		dir := t.TempDir()
		_, err := access.New(access.Options{Socket: filepath.Join(dir, "s"), Loopback: address, Backend: &backend{dir: dir}})
		if err == nil || !strings.Contains(err.Error(), "127.0.0.1:PORT") {
			t.Errorf("New with address %q = %v, want an error", address, err)
		}
	}
}

func TestCapacity(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := access.Capacity{
		Memory: access.Usage{Used: 3 << 30, Limit: 4 << 30}, Installations: access.Usage{Used: 1}, Machines: 2,
		Waiting: []access.Waiting{
			{Kind: access.Server, Namespace: "a", Name: "lab", Reason: "HostFull", Message: "needs memory", Since: since},
			{Kind: access.Target, Namespace: "b", Name: "target-1", Reason: "InstallationsLimit", Message: "after others", Since: since},
		},
	}
	b := &backend{capacity: want}
	client, _ := serve(t, b)
	got, err := client.Capacity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("capacity differs (-want +got):\n%s", diff)
	}
	var out bytes.Buffer
	if err := got.Print(&out, 1); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"2 machines, 3072 MiB of at most 4096 MiB of memory\n", "1 installations\n", "2 waiting:\n", "POSITION", "server a/lab", "needs memory", "and 1 more",
	} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("got %q, want it to contain %q", out.String(), text)
		}
	}
	if strings.Contains(out.String(), "b/target-1") {
		t.Errorf("got %q, want one machine only", out.String())
	}
	out.Reset()
	if err := (access.Capacity{}).Print(&out, 1); err != nil || out.String() != "0 machines, 0 MiB of memory\n0 installations\n" {
		t.Errorf("got %q, error %v for an empty host", out.String(), err)
	}
}

func TestCapacityUnavailable(t *testing.T) {
	client, stop := serve(t, &backend{capacity: access.Capacity{Machines: -1}})
	var answer *access.Error
	if _, err := client.Capacity(t.Context()); !errors.As(err, &answer) || answer.Status != http.StatusServiceUnavailable {
		t.Errorf("got error %v, want status %d", err, http.StatusServiceUnavailable)
	}
	stop()
	if _, err := client.Capacity(t.Context()); !errors.Is(err, access.ErrNoManager) {
		t.Errorf("got error %v after the stop, want %v", err, access.ErrNoManager)
	}
}
