// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"io"
	"net"
	"sync"
)

// closeWrite closes the sending half of a connection, or the whole connection if it
// does not support half-closing.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// join copies in both directions until both have ended, one has failed, or ctx
// ends; then it closes both connections. EOF in one direction is passed on as a
// half-close and leaves the other direction open, as SSH requires.
func join(ctx context.Context, a, b net.Conn) {
	closeBoth := sync.OnceFunc(func() {
		a.Close()
		b.Close()
	})
	defer closeBoth()
	defer context.AfterFunc(ctx, closeBoth)()

	var both sync.WaitGroup
	for _, direction := range []struct{ to, from net.Conn }{{a, b}, {b, a}} {
		both.Go(func() {
			if _, err := io.Copy(direction.to, direction.from); err != nil {
				closeBoth()
				return
			}
			if err := closeWrite(direction.to); err != nil {
				closeBoth()
			}
		})
	}
	both.Wait()
}
