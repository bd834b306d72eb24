// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"io"
	"net"
	"sync"
)

// closeWrite closes the sending half where a connection has halves, else all
// of it.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// join copies both ways until both directions ended, or one broke, or ctx
// ended; then both connections are closed. An orderly end of one direction is
// passed on and leaves the other open, as SSH needs it.
func join(ctx context.Context, a, b net.Conn) {
	closeBoth := sync.OnceFunc(func() {
		a.Close()
		b.Close()
	})
	defer closeBoth()
	defer context.AfterFunc(ctx, closeBoth)()

	var both sync.WaitGroup
	for _, way := range []struct{ to, from net.Conn }{{a, b}, {b, a}} {
		both.Go(func() {
			if _, err := io.Copy(way.to, way.from); err != nil {
				closeBoth()
				return
			}
			if err := closeWrite(way.to); err != nil {
				closeBoth()
			}
		})
	}
	both.Wait()
}
