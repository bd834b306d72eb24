// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
)

func TestTheWatchdogIsFedByAServerThatAnswers(t *testing.T) {
	h := newHarness(t)
	h.stop()
	fed := make(chan struct{})
	h.options.Alive = func() {
		select {
		case fed <- struct{}{}:
		default:
		}
	}
	h.start()
	await := func(what string) {
		t.Helper()
		select {
		case <-fed:
		case <-time.After(patience):
			t.Fatalf("the watchdog is not fed %s", what)
		}
	}
	await("before there is a lab")
	h.up(labConfig())
	await("while all is well")
	if err := h.server.check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAServerThatDoesNotAnswerItself(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	h.server.mu.Lock()
	l := h.server.lab
	h.server.mu.Unlock()
	// The port of the page is another's, who takes connections and says no.
	other, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: patience}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = refusing.Serve(other)
	}()
	right := l.renderer.port
	l.renderer.port = listenPort(other)
	err = l.askHTTP(t.Context())
	l.renderer.port = right
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("error is %v", err)
	}
	_ = refusing.Close()
	<-done
	if err := askAgent(t.Context(), other.Addr()); err == nil {
		t.Error("an agent API that is gone answered")
	}
}

// Nobody else learns anything, and a flood does not keep the server from
// asking itself.
func TestTheServersOwnPage(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	page := "http://" + h.service(serviceHTTP) + alivePath
	if got := h.do(machineAddress, http.MethodGet, page, "", nil); got.status != http.StatusNotFound {
		t.Errorf("a machine got %d", got.status)
	}
	h.await("its count", func(s agent.State) bool { return s.Refused["HTTPUnknownPath"] > 0 })
	for i := range maxStrangerConns + 1 {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 2, 0, byte(1+i/(maxConnsPerPeer-1)))}}
		conn, err := dialer.DialContext(t.Context(), "tcp", h.service(serviceHTTP))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	h.await("a refused connection", func(s agent.State) bool { return s.Refused["HTTPTooManyConnections"] > 0 })
	if err := h.server.check(t.Context()); err != nil {
		t.Error(err)
	}
}
