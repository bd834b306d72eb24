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
// port-forward" does, but without a listener: any user of this host could
// connect to a local port. ctx applies to connecting only.
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

// forwardDialer uses WebSockets, and falls back to SPDY for API servers and
// proxies that do not support them.
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
	if err := failures.Close(); err != nil { // nothing is sent on the error stream
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

// forwardedConn is the only connection of a port-forwarding session.
type forwardedConn struct {
	httpstream.Stream
	session httpstream.Connection
	failure chan error
	// received is set once data has arrived.
	received atomic.Bool
}

// failureWait is how long Read waits for the error stream when a connection ends
// before any data; the pod's kubelet sends both.
const failureWait = 5 * time.Second

// Read reads from the pod. If the connection in the pod failed, it returns the
// reason as the error.
func (c *forwardedConn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if n > 0 {
		c.received.Store(true)
	}
	if err == nil || c.received.Load() {
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

// CloseWrite signals the end of the data to the pod.
func (c *forwardedConn) CloseWrite() error { return c.Stream.Close() }

// Close closes the connection and the port-forwarding session.
func (c *forwardedConn) Close() error {
	return errors.Join(c.Stream.Reset(), c.session.Close())
}

// A stream of a connection to the API server has neither addresses nor
// deadlines; these methods only complete net.Conn.

func (c *forwardedConn) LocalAddr() net.Addr                { return forwardedAddr{} }
func (c *forwardedConn) RemoteAddr() net.Addr               { return forwardedAddr{} }
func (c *forwardedConn) SetDeadline(time.Time) error        { return nil }
func (c *forwardedConn) SetReadDeadline(time.Time) error    { return nil }
func (c *forwardedConn) SetWriteDeadline(t time.Time) error { return nil }

type forwardedAddr struct{}

func (forwardedAddr) Network() string { return "portforward" }
func (forwardedAddr) String() string  { return "pod" }
