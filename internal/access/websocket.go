// SPDX-License-Identifier: Apache-2.0

package access

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// streamProtocol is the WebSocket subprotocol of streams. The binary messages of each
// direction are its bytes, in order. An empty message ends the direction and leaves the
// other one open, which a WebSocket itself cannot express.
const streamProtocol = "v1.stream." + Group

const (
	// pingInterval is shorter than the time after which proxies close idle connections.
	pingInterval = 20 * time.Second
	// closeTimeout bounds sending the close message.
	closeTimeout = time.Second
)

// upgrader refuses requests that a web page of another origin has made.
var upgrader = websocket.Upgrader{
	Subprotocols: []string{streamProtocol},
	Error: func(w http.ResponseWriter, _ *http.Request, code int, reason error) {
		writeError(w, statusError(code, reason.Error()))
	},
}

func wantsStream(r *http.Request) bool { return websocket.IsWebSocketUpgrade(r) }

// acceptStream upgrades a request. gone is called when the client has left after it had
// ended its direction. After an error the request is answered.
func acceptStream(w http.ResponseWriter, r *http.Request, gone func()) (*streamConn, error) {
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	if conn.Subprotocol() != streamProtocol {
		conn.Close()
		return nil, errors.New("the client does not support the protocol " + streamProtocol)
	}
	c := newStreamConn(conn)
	c.gone = gone
	c.peerClosed = errors.New("the client has closed the stream")
	c.spawn(c.ping)
	return c, nil
}

// openedStream is the client's side of a stream.
func openedStream(conn *websocket.Conn) *streamConn {
	// A pong would wait, and the reader with it, while the server receives data slowly.
	conn.SetPingHandler(func(string) error { return nil })
	return newStreamConn(conn)
}

// streamConn is a byte stream over a WebSocket. It implements net.Conn. One goroutine may
// read and one may write at a time; Close may be called at any time. It does not detect by
// itself that the peer has gone: a peer that does not read for a long time, because its
// user has paused the output, is not gone. TCP's keep-alive closes the connection.
type streamConn struct {
	*websocket.Conn
	message io.Reader // the message that is being read; nil if none
	// empty is set until the message has had data.
	empty bool
	// ended is set after the peer's empty message, or the error of an earlier Read.
	ended error
	// peerClosed is what Read returns when the peer has closed both directions.
	peerClosed error
	gone       func()

	mu     sync.Mutex
	closed chan struct{} // closed under mu
	work   sync.WaitGroup
}

func newStreamConn(conn *websocket.Conn) *streamConn {
	return &streamConn{Conn: conn, peerClosed: io.EOF, gone: func() {}, closed: make(chan struct{})}
}

// spawn runs f in a goroutine for which Close waits, unless the connection is closed.
func (c *streamConn) spawn(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isClosed() {
		c.work.Go(f)
	}
}

func (c *streamConn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// Read implements io.Reader. It returns io.EOF when the peer has ended its direction.
func (c *streamConn) Read(p []byte) (int, error) {
	for c.ended == nil {
		if c.message == nil {
			c.next()
			continue
		}
		n, err := c.message.Read(p)
		if n > 0 {
			c.empty = false
			return n, nil
		}
		switch {
		case err == nil:
			return 0, nil
		case !errors.Is(err, io.EOF):
			c.ended = err
		case c.empty:
			c.ended = io.EOF
			// The close message is still to be received.
			c.spawn(c.drain)
		}
		c.message = nil
	}
	return 0, c.ended
}

// next waits for the next message.
func (c *streamConn) next() {
	kind, message, err := c.NextReader()
	switch {
	case websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway):
		c.ended = c.peerClosed
	case err != nil:
		c.ended = err
	case kind != websocket.BinaryMessage:
		c.ended = errors.New("the peer sent a text message in a stream of bytes")
	default:
		c.message, c.empty = message, true
	}
}

// drain receives control messages until the connection ends, and then closes it.
func (c *streamConn) drain() {
	for {
		if _, _, err := c.NextReader(); err != nil {
			_ = c.Conn.Close() // ends writes
			c.gone()
			return
		}
	}
}

// Write implements io.Writer.
func (c *streamConn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite ends the stream's sending direction.
func (c *streamConn) CloseWrite() error { return c.WriteMessage(websocket.BinaryMessage, nil) }

// Close closes the connection in both directions. It is idempotent.
func (c *streamConn) Close() error {
	c.mu.Lock()
	if c.isClosed() {
		c.mu.Unlock()
		return nil
	}
	close(c.closed)
	c.mu.Unlock()
	message := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = c.WriteControl(websocket.CloseMessage, message, time.Now().Add(closeTimeout)) // the peer may have gone
	err := c.Conn.Close()
	c.work.Wait()
	return err
}

// SetDeadline implements net.Conn.
func (c *streamConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// ping sends pings until the connection is closed. A ping has no deadline, because it may
// wait for data that the peer is slow to receive.
func (c *streamConn) ping() {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-tick.C:
			if c.WriteControl(websocket.PingMessage, nil, time.Time{}) != nil {
				return
			}
		}
	}
}
