// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestWatchdogIsFedWhileChecksSucceed(t *testing.T) {
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
			t.Fatalf("%s: got no message to the watchdog within %s, want one", what, patience)
		}
	}
	await("without a configuration")
	h.up(labConfig())
	await("while all services run")
	if err := h.server.check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestHealthCheckFailsWithoutTheService(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	h.server.mu.Lock()
	l := h.server.lab
	h.server.mu.Unlock()
	// Another server has the port and responds with 404.
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
	right := l.renderer.Port
	l.renderer.Port = listenPort(other)
	err = l.askHTTP(t.Context())
	l.renderer.Port = right
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got error %v, want one with status 404", err)
	}
	_ = refusing.Close()
	<-done
	if err := askAPI(t.Context(), other.Addr()); err == nil {
		t.Error("checking a closed netboot API: got nil, want an error")
	}
}

// A flood of connections must not make the health check fail.
func TestHealthPageIsServedToTheServerOnly(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	page := "http://" + h.service(serviceHTTP) + alivePath
	if got := h.do(machineAddress, http.MethodGet, page, "", nil); got.status != http.StatusNotFound {
		t.Errorf("a machine: got status %d, want 404", got.status)
	}
	h.await("the refusal", func(s observed) bool { return s.Refused["HTTPUnknownPath"] > 0 })
	for i := range maxStrangerConns + 1 {
		h.open(fmt.Sprintf("127.2.0.%d", 1+i/(maxConnsPerPeer-1)), "GET ")
	}
	h.await("a refused connection", func(s observed) bool { return s.Refused["HTTPTooManyConnections"] > 0 })
	if err := h.server.check(t.Context()); err != nil {
		t.Error(err)
	}
}
