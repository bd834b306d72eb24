// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Watch calls changed with what changed since a Position, or with the whole state if
// netbootd does not know the Position, then at every change and at every heartbeat, one
// call at a time. Watch blocks until ctx ends, changed returns an error or the connection
// fails, and never returns nil. A server that is connected but sends nothing for the
// client's Patience counts as hung (ErrSilent). Watch does not reconnect: the caller
// does, and reports the failure.
func (c *Client) Watch(ctx context.Context, after Position, changed func(Update) error) error {
	err := c.streaming(ctx, func(ctx context.Context, heard func()) error {
		resp, err := c.send(ctx, request{method: http.MethodGet, path: "/v1/watch", query: url.Values{"after": {after.String()}}})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		stream := NewUpdateReader(resp.Body)
		for {
			u, err := stream.Read(heard)
			if err != nil {
				return err
			}
			if err := changed(u); err != nil {
				return err
			}
			heard()
		}
	})
	return fmt.Errorf("watching %s: %w", c.address, err)
}

// streaming calls read, which calls heard whenever the server has sent something, and
// ends it with ErrSilent if the server does not for the client's Patience.
func (c *Client) streaming(ctx context.Context, read func(ctx context.Context, heard func()) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(c.patience, func() { cancel(ErrSilent) })
	defer silence.Stop()
	err := read(ctx, func() { silence.Reset(c.patience) })
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, ErrSilent) {
		err = fmt.Errorf("%w: %w", ErrSilent, err) // the connection was accepted, the TLS handshake got no answer
	}
	return err
}

// readLine reads one line of at most limit bytes. Unlike json.Decoder it does not
// keep the memory of a long line, and an endless line cannot exhaust memory. A
// truncated line is io.ErrUnexpectedEOF.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, fmt.Errorf("a record is longer than %d bytes", limit)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
