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

	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for an event.
const patience = time.Minute

var machine = access.Ref{Namespace: "default", Kind: access.Target, Name: "target-1"}

const sshPath = "/apis/access.pxelab.io/v1alpha1/namespaces/default/baremetaltargets/target-1/ssh"

// backend has one machine, with its files in dir and its SSH port at sshd.
type backend struct {
	dir  string
	sshd string
	// conn is returned instead of a connection to sshd.
	conn       net.Conn
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
	case "long":
		return errors.New(strings.Repeat("fire, ", 1000))
	default:
		return fmt.Errorf("no such target: %w", access.ErrNotFound)
	}
}

func (b *backend) DialSSH(ctx context.Context, m access.Ref) (net.Conn, error) {
	if err := b.check(m); err != nil {
		return nil, err
	}
	if b.conn != nil {
		return b.conn, nil
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

// everyone is an Authenticator and an Authorizer for tests without users.
type everyone struct{}

func (everyone) User(*http.Request) (access.User, error) { return access.User{Name: "jane"}, nil }

func (everyone) Authorize(context.Context, access.User, access.Attributes) (bool, string, error) {
	return true, "", nil
}

// serve serves the access API to every request, until the test ends or calls the returned
// function.
func serve(t *testing.T, b *backend) (*access.Client, func()) {
	t.Helper()
	b.dir = pathstest.Short(t)
	h := access.NewHandler(access.HandlerOptions{Backend: b, Authenticator: everyone{}, Authorizer: everyone{}})
	server := httptest.NewServer(h)
	stop := sync.OnceFunc(func() {
		h.Close()
		server.Close()
	})
	t.Cleanup(stop)
	return clientOf(t, server.URL), stop
}

func clientOf(t *testing.T, address string) *access.Client {
	t.Helper()
	client, err := access.NewClient(&rest.Config{Host: address})
	if err != nil {
		t.Fatal(err)
	}
	return client
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
	if _, err := client.SSH(t.Context(), machine); err == nil {
		t.Error("SSH after the stop = nil, want an error")
	}
}

// halfConn is a connection whose peer does not notice the end of one direction.
type halfConn struct{ net.Conn }

func (halfConn) CloseWrite() error { return nil }

// TestClientLeaves closes a stream whose machine neither sends nor closes: the handler
// must release the connection to the machine.
func TestClientLeaves(t *testing.T) {
	for name, leave := range map[string]func(*testing.T, net.Conn){
		"by closing": func(*testing.T, net.Conn) {},
		"after the end of its direction": func(t *testing.T, c net.Conn) {
			if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := net.Pipe()
			defer there.Close()
			if err := there.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			client, _ := serve(t, &backend{conn: halfConn{here}})
			conn, err := client.SSH(t.Context(), machine)
			if err != nil {
				t.Fatal(err)
			}
			leave(t, conn)
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
			if n, err := there.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("the machine read %d bytes, error %v; want the end of its connection", n, err)
			}
		})
	}
}

func TestErrorResponses(t *testing.T) {
	b := &backend{sshd: sshd(t)}
	client, _ := serve(t, b)
	tests := map[string]struct {
		machine access.Ref
		status  int32
		text    string
	}{
		"unknown":      {access.Ref{Namespace: "default", Kind: access.Target, Name: "unknown"}, 404, "no such target"},
		"powered off":  {access.Ref{Namespace: "default", Kind: access.Target, Name: "off"}, 503, "powered off"},
		"broken":       {access.Ref{Namespace: "default", Kind: access.Server, Name: "broken"}, 500, "on fire"},
		"long":         {access.Ref{Namespace: "default", Kind: access.Server, Name: "long"}, 500, "fire, fire"},
		"unknown kind": {access.Ref{Namespace: "default", Kind: "pods", Name: "x"}, 404, "no such path"},
		"escaped name": {access.Ref{Namespace: "default", Kind: access.Target, Name: "a/../b c"}, 404, "no such path"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			requests := map[string]func() error{
				"ssh":     func() error { return closed(client.SSH(t.Context(), tt.machine)) },
				"console": func() error { return closed(client.Console(t.Context(), tt.machine)) },
				"log":     func() error { return closed(client.Log(t.Context(), tt.machine, access.LogOptions{})) },
			}
			for endpoint, request := range requests {
				checkStatus(t, endpoint, request(), tt.status, tt.text)
			}
		})
	}
	t.Run("machine without a console", func(t *testing.T) {
		checkStatus(t, "console", closed(client.Console(t.Context(), machine)), 503, "not running")
	})
	t.Run("stream without upgrade", func(t *testing.T) {
		h := access.NewHandler(access.HandlerOptions{Backend: b, Authenticator: everyone{}, Authorizer: everyone{}})
		defer h.Close()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, sshPath, nil))
		if w.Code != http.StatusUpgradeRequired {
			t.Errorf("got status %d, want 426", w.Code)
		}
	})
	t.Run("not an access API", func(t *testing.T) {
		other := httptest.NewServer(http.NotFoundHandler())
		defer other.Close()
		if err := closed(clientOf(t, other.URL).SSH(t.Context(), machine)); !errors.Is(err, access.ErrNoManager) {
			t.Errorf("got error %v, want %v", err, access.ErrNoManager)
		}
	})
}

func checkStatus(t *testing.T, what string, err error, code int32, text string) {
	t.Helper()
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		t.Errorf("%s: got error %v, want a status", what, err)
	} else if status.ErrStatus.Code != code || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: got %d %q, want %d and %q", what, status.ErrStatus.Code, err, code, text)
	}
}

func closed[C io.Closer](c C, err error) error {
	if err == nil {
		c.Close()
	}
	return err
}
