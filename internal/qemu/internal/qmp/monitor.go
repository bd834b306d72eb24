// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"encoding/json"
	"fmt"

	goqemu "github.com/digitalocean/go-qemu/qmp"
	"github.com/digitalocean/go-qemu/qmp/raw"
)

// Commands returns go-qemu's typed commands over c. Each command is bounded by
// ctx, and by DefaultTimeout when ctx has no deadline. Errors are those of
// Execute.
func (c *Client) Commands(ctx context.Context) *raw.Monitor {
	return raw.NewMonitor(c.Monitor(ctx))
}

// Monitor returns c as go-qemu's Monitor, whose methods take no context: ctx
// bounds every call, as does DefaultTimeout when ctx has no deadline.
func (c *Client) Monitor(ctx context.Context) goqemu.Monitor {
	return &monitor{client: c, ctx: ctx}
}

type monitor struct {
	client *Client
	ctx    context.Context //nolint:containedctx // go-qemu's Run takes no context
}

// Connect does nothing: Dial has connected the client.
func (m *monitor) Connect() error { return nil }

// Disconnect closes the client.
func (m *monitor) Disconnect() error { return m.client.Close() }

// Run executes a command given as a QMP message and returns the reply without
// its id, which go-qemu decodes only as a string.
func (m *monitor) Run(command []byte) ([]byte, error) {
	var c struct {
		Execute   string          `json:"execute"`
		Arguments json.RawMessage `json:"arguments"`
	}
	if err := json.Unmarshal(command, &c); err != nil {
		return nil, fmt.Errorf("decoding a QMP command: %w", err)
	}
	var args any
	if c.Arguments != nil {
		args = c.Arguments
	}
	var reply struct {
		Return json.RawMessage `json:"return"`
	}
	if err := m.client.Execute(m.ctx, c.Execute, args, &reply.Return); err != nil {
		return nil, err
	}
	return json.Marshal(reply)
}

// Events delivers the client's events until ctx or the connection ends. It
// competes with every other reader of Client.Events. Events that are not read
// are dropped from the client's queue, oldest first.
func (m *monitor) Events(ctx context.Context) (<-chan goqemu.Event, error) {
	out := make(chan goqemu.Event)
	go func() {
		defer close(out)
		for {
			select {
			case e, ok := <-m.client.Events():
				if !ok {
					return
				}
				select {
				case out <- e.goqemu():
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (e Event) goqemu() goqemu.Event {
	out := goqemu.Event{Event: e.Name}
	// Data that is not an object has no form in go-qemu's event.
	_ = json.Unmarshal(e.Data, &out.Data)
	if !e.At.IsZero() {
		out.Timestamp.Seconds = e.At.Unix()
		out.Timestamp.Microseconds = int64(e.At.Nanosecond() / 1000)
	}
	return out
}
