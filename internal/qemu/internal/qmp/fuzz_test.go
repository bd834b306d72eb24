// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzReadMessage feeds the reader arbitrary input of a hostile server. It must
// return an error, and never panic or loop forever.
func FuzzReadMessage(f *testing.F) {
	for _, seed := range []string{
		hello + "\r\n",
		`{"return": {"status": "running", "singlestep": false, "running": true}, "id": 1}` + "\r\n",
		`{"return": [], "id": 18446744073709551615}` + "\n",
		`{"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}, "id": 2}` + "\n",
		`{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}` + "\n",
		`{"timestamp": {"seconds": 1e400}, "event": "x"}` + "\n",
		"\n\r\n \n", "null\n", "[]\n", `"x"` + "\n", `{"id": 1.5}` + "\n", `{"event": 3}` + "\n", "\xff\xfe\x00\n", `{"a":`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(in), 16)
		c := &Client{events: make(chan Event, 2), pending: map[uint64]chan reply{1: make(chan reply, 1)}}
		for range len(in) + 1 {
			m, err := readMessage(r)
			if err != nil {
				if !errors.Is(err, ErrProtocol) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("unexpected kind of error: %v", err)
				}
				return
			}
			if err := c.dispatch(m); err != nil && !errors.Is(err, ErrProtocol) {
				t.Fatalf("unexpected kind of error: %v", err)
			}
		}
		t.Fatal("more messages than bytes")
	})
}
