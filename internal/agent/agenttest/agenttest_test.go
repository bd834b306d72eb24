// SPDX-License-Identifier: Apache-2.0

package agenttest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/agent/agenttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

func blobOf(content []byte) agent.Blob {
	sum := sha256.Sum256(content)
	return agent.Blob{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content))}
}

func config(content []byte) *agent.Config {
	b := blobOf(content)
	return &agent.Config{
		Network: agent.Network{
			MAC: "52:54:00:00:00:02", Address: netip.MustParsePrefix("192.168.89.1/24"),
			RangeStart: netip.MustParseAddr("192.168.89.100"), RangeEnd: netip.MustParseAddr("192.168.89.200"), LeaseSeconds: 600,
		},
		Programs: []agent.Program{{Architecture: "x86_64", Name: "ipxe.efi", Blob: b}},
		Machines: []agent.Machine{{
			UID: "u1", Name: "target-1", Hostname: "target-1", MAC: "52:54:00:00:01:01", Address: netip.MustParseAddr("192.168.89.11"),
			Architecture: "x86_64", Boot: agent.BootInstall, Attempt: "1", InstanceID: "i1", Token: "0123456789012345678901",
			Kernel: b, Initrd: b, Overlay: b, Image: b, ImagePin: b.Digest,
		}},
	}
}

func client(t *testing.T, o agent.ClientOptions) *agent.Client {
	t.Helper()
	c, err := agent.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestPushAndUpload(t *testing.T) {
	s := agenttest.Start(t, agenttest.Options{})
	c := client(t, s.ClientOptions())
	content := bytes.Repeat([]byte("kernel"), 100_000)
	want := config(content)

	if err := c.UploadBlob(t.Context(), blobOf(content), bytes.NewReader(content), nil); !errors.Is(err, agent.ErrUnknownBlob) {
		t.Errorf("uploading before the push: %v", err)
	}
	digest, err := c.PushConfig(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if digest != want.Digest() {
		t.Errorf("digest %s, want %s", digest, want.Digest())
	}
	state, err := c.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if state.ConfigDigest != digest || len(state.MissingBlobs) != 1 {
		t.Errorf("state is %+v", state)
	}
	var done int64
	err = c.UploadBlob(t.Context(), blobOf(content), bytes.NewReader(content), func(n int64) { done = n })
	if err != nil {
		t.Fatal(err)
	}
	if got, whole := s.Blob(blobOf(content).Digest); !whole || !bytes.Equal(got, content) || done != int64(len(content)) {
		t.Errorf("%d bytes are there, %d were told", len(got), done)
	}
	if state, err = c.State(t.Context()); err != nil || len(state.MissingBlobs) != 0 {
		t.Errorf("state is %+v, %v", state, err)
	}
}

// failing breaks off after some bytes, as a source file that can't be read.
type failing struct {
	content []byte
	until   int64
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.until {
		return 0, errors.New("disk error")
	}
	return bytes.NewReader(f.content[:f.until]).ReadAt(p, off)
}

func TestUploadResumes(t *testing.T) {
	s := agenttest.Start(t, agenttest.Options{})
	c := client(t, s.ClientOptions())
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	if _, err := c.PushConfig(t.Context(), config(content)); err != nil {
		t.Fatal(err)
	}
	if err := c.UploadBlob(t.Context(), blobOf(content), failing{content, 3 << 20}, nil); err == nil {
		t.Fatal("an upload whose source fails succeeded")
	}
	// The server may still be taking in what was sent.
	var first int64
	for first = 0; first == 0; {
		first = -1
		err := c.UploadBlob(t.Context(), blobOf(content), bytes.NewReader(content), func(n int64) {
			if first < 0 {
				first = n
			}
		})
		if errors.Is(err, agent.ErrOffset) || first == 0 && err != nil {
			first = 0
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, whole := s.Blob(blobOf(content).Digest); !whole {
		t.Error("the blob is not whole")
	}
}

// lingering holds up the second read until the upload has ended, or long enough
// to see that its end waits for the read.
type lingering struct {
	content []byte
	second  sync.Once
	ended   atomic.Bool
	late    bool
}

func (l *lingering) ReadAt(p []byte, off int64) (int, error) {
	if off > 0 {
		l.second.Do(func() {
			for end := time.Now().Add(time.Second); time.Now().Before(end) && !l.ended.Load(); {
				time.Sleep(time.Millisecond)
			}
			l.late = l.ended.Load()
		})
	}
	return bytes.NewReader(l.content).ReadAt(p, off)
}

func TestRefusedUploadLeavesItsContentAlone(t *testing.T) {
	s := agenttest.Start(t, agenttest.Options{})
	c := client(t, s.ClientOptions())
	content := &lingering{content: bytes.Repeat([]byte("0123456789abcdef"), 1<<18)}
	blob := blobOf(content.content)
	if _, err := c.PushConfig(t.Context(), config(content.content)); err != nil {
		t.Fatal(err)
	}
	err := c.UploadBlob(t.Context(), blob, content, func(int64) {
		// What another upload has brought meanwhile makes this one be refused.
		if _, whole := s.Blob(blob.Digest); !whole {
			if err := c.UploadBlob(t.Context(), blob, bytes.NewReader(content.content), nil); err != nil {
				t.Error(err)
			}
		}
	})
	content.ended.Store(true)
	if !errors.Is(err, agent.ErrOffset) {
		t.Errorf("error is %v", err)
	}
	content.second.Do(func() {}) // waits for a read that is under way
	if content.late {
		t.Error("the content was read after the upload")
	}
}

func TestWrongContentIsRefused(t *testing.T) {
	s := agenttest.Start(t, agenttest.Options{})
	c := client(t, s.ClientOptions())
	content := []byte("right")
	if _, err := c.PushConfig(t.Context(), config(content)); err != nil {
		t.Fatal(err)
	}
	err := c.UploadBlob(t.Context(), blobOf(content), bytes.NewReader([]byte("wrong")), nil)
	if !errors.Is(err, agent.ErrDigest) {
		t.Errorf("error is %v", err)
	}
}

func TestInvalidConfigIsRefused(t *testing.T) {
	s := agenttest.Start(t, agenttest.Options{})
	c := client(t, s.ClientOptions())
	bad := config([]byte("x"))
	bad.Network.RangeEnd = netip.MustParseAddr("10.0.0.1")
	if _, err := c.PushConfig(t.Context(), bad); !errors.Is(err, agent.ErrInvalid) {
		t.Errorf("error is %v", err)
	}
	var refused *agent.RefusedError
	s.RefuseConfigs(fmt.Errorf("%w: disk", agent.ErrNoSpace))
	if _, err := c.PushConfig(t.Context(), config([]byte("x"))); !errors.Is(err, agent.ErrNoSpace) || !errors.As(err, &refused) {
		t.Errorf("error is %v", err)
	}
	if n := len(s.Configs()); n != 0 {
		t.Errorf("%d configurations are in force", n)
	}
}

func TestWatchFollows(t *testing.T) {
	s := agenttest.Start(t, agenttest.Options{})
	c := client(t, s.ClientOptions())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	states := make(chan agent.State)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Watch(ctx, func(state agent.State) {
			select {
			case states <- state:
			case <-ctx.Done():
			}
		})
	}()
	if state := <-states; len(state.Machines) != 0 {
		t.Errorf("first state is %+v", state)
	}
	s.UpdateMachine("u1", func(m *agent.MachineState) { m.Attempt = "7" })
	if state := <-states; state.Machines["u1"].Attempt != "7" {
		t.Errorf("second state is %+v", state)
	}
	s.Stop()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("Watch returned nil")
		}
	case <-ctx.Done():
		t.Error("the end of the server was not noticed")
	}
}

func TestDialTarget(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	go func() {
		conn, err := target.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "SSH-2.0-test\r\n")
		sent, _ := io.ReadAll(conn)
		_, _ = conn.Write(bytes.ToUpper(sent))
	}()
	s := agenttest.Start(t, agenttest.Options{Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", target.Addr().String())
	}})
	c := client(t, s.ClientOptions())
	if _, err := c.PushConfig(t.Context(), config([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DialTarget(t.Context(), netip.MustParseAddrPort("192.168.89.12:22")); !errors.Is(err, agent.ErrNoTarget) {
		t.Errorf("dialling an undeclared address: %v", err)
	}
	conn, err := c.DialTarget(t.Context(), netip.MustParseAddrPort("192.168.89.11:22"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "SSH-2.0-test\r\nHELLO" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestUnreachableTarget(t *testing.T) {
	s := agenttest.Start(t, agenttest.Options{})
	c := client(t, s.ClientOptions())
	if _, err := c.PushConfig(t.Context(), config([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DialTarget(t.Context(), netip.MustParseAddrPort("192.168.89.11:22")); !errors.Is(err, agent.ErrUnreachable) {
		t.Errorf("error is %v", err)
	}
}

func TestOnlyTheManagerIsServed(t *testing.T) {
	s := agenttest.Start(t, agenttest.Options{})
	other, err := agent.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	own := s.Credentials()
	mix := func(ca, crt, key []byte) *tls.Config {
		config, err := (&agent.Credentials{CA: ca, ClientCrt: crt, ClientKey: key}).ClientTLS()
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	foreign := mix(other.CA, other.ClientCrt, other.ClientKey)
	foreign.RootCAs = s.ClientOptions().TLS.RootCAs
	none := s.ClientOptions().TLS
	none.Certificates, none.GetClientCertificate = nil, nil
	old := s.ClientOptions().TLS
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for name, config := range map[string]*tls.Config{
		"another authority's client":      foreign,
		"another server":                  mix(other.CA, other.ClientCrt, other.ClientKey),
		"the server's certificate itself": mix(own.CA, own.ServerCrt, own.ServerKey),
		"no certificate":                  none,
		"TLS 1.2":                         old,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := client(t, agent.ClientOptions{Address: s.Address(), TLS: config}).State(t.Context()); err == nil {
				t.Error("it was served")
			}
		})
	}
	if _, err := client(t, s.ClientOptions()).State(t.Context()); err != nil {
		t.Errorf("the manager: %v", err)
	}
}
