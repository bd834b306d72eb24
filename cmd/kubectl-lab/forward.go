// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// forward connects to a port of a pod through the API server, as "kubectl
// port-forward" does, but listens nowhere: a port on this host would be open to
// whoever else is logged in. ctx bounds the connecting only.
func forward(ctx context.Context, config *rest.Config, pod types.NamespacedName, port int) (net.Conn, error) {
	dialer, err := forwardDialer(config, pod)
	if err != nil {
		return nil, fmt.Errorf("forwarding to pod %s: %w", pod, err)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	// The library's dialling cannot be interrupted.
	dialled := make(chan result, 1)
	go func() {
		conn, err := dialStream(dialer, port)
		dialled <- result{conn, err}
	}()
	select {
	case r := <-dialled:
		if r.err != nil {
			return nil, fmt.Errorf("forwarding to port %d of pod %s: %w", port, pod, r.err)
		}
		return r.conn, nil
	case <-ctx.Done():
		go func() {
			if r := <-dialled; r.err == nil {
				r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// forwardDialer speaks WebSockets, and SPDY to API servers and proxies that
// know only that.
func forwardDialer(config *rest.Config, pod types.NamespacedName) (httpstream.Dialer, error) {
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	address := base.JoinPath("api", "v1", "namespaces", url.PathEscape(pod.Namespace), "pods", url.PathEscape(pod.Name), "portforward")
	sockets, err := portforward.NewSPDYOverWebsocketDialerForStreaming(address, config)
	if err != nil {
		return nil, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	plain := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, address)
	return portforward.NewFallbackDialerForStreaming(sockets, plain, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

func dialStream(dialer httpstream.Dialer, port int) (_ net.Conn, err error) {
	session, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			session.Close()
		}
	}()
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	failures, err := session.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	if err := failures.Close(); err != nil { // nothing is sent that way
		return nil, err
	}
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := session.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	c := &forwardedConn{Stream: data, session: session, failure: make(chan error, 1)}
	go func() {
		text, err := io.ReadAll(io.LimitReader(failures, 4096))
		if message := strings.TrimSpace(string(text)); message != "" {
			err = errors.New(message)
		}
		c.failure <- err
	}()
	return c, nil
}

// forwardedConn is one connection of a port forwarding that has no other.
type forwardedConn struct {
	httpstream.Stream
	session httpstream.Connection
	failure chan error
	heard   atomic.Bool
}

// failureWait is how long the word is waited for why a connection ended before
// it said anything; both come from the same place.
const failureWait = 5 * time.Second

// Read reads from the pod. A connection that could not be made in the pod ends
// with the reason.
func (c *forwardedConn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if n > 0 {
		c.heard.Store(true)
	}
	if err == nil || c.heard.Load() {
		return n, err
	}
	select {
	case failure := <-c.failure:
		if failure != nil {
			return n, failure
		}
	case <-time.After(failureWait):
	}
	return n, err
}

// CloseWrite tells the pod that no more comes.
func (c *forwardedConn) CloseWrite() error { return c.Stream.Close() }

// Close ends the connection and the forwarding.
func (c *forwardedConn) Close() error {
	return errors.Join(c.Stream.Reset(), c.session.Close())
}

// A stream within a connection to the API server has neither addresses nor
// deadlines.

func (c *forwardedConn) LocalAddr() net.Addr                { return forwardedAddr{} }
func (c *forwardedConn) RemoteAddr() net.Addr               { return forwardedAddr{} }
func (c *forwardedConn) SetDeadline(time.Time) error        { return nil }
func (c *forwardedConn) SetReadDeadline(time.Time) error    { return nil }
func (c *forwardedConn) SetWriteDeadline(t time.Time) error { return nil }

type forwardedAddr struct{}

func (forwardedAddr) Network() string { return "portforward" }
func (forwardedAddr) String() string  { return "pod" }
