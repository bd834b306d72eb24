// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// request is a command as it is sent.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// message is any message from QEMU: a greeting, reply or event.
type message struct {
	Greeting  *greeting       `json:"QMP"`
	Return    json.RawMessage `json:"return"`
	Error     *refusal        `json:"error"`
	ID        *uint64         `json:"id"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp timestamp       `json:"timestamp"`
}

type greeting struct {
	Version struct {
		QEMU struct {
			Major int `json:"major"`
			Minor int `json:"minor"`
			Micro int `json:"micro"`
		} `json:"qemu"`
		Package string `json:"package"`
	} `json:"version"`
}

type refusal struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// timestamp is an event's time; both fields are -1 when it is unknown.
type timestamp struct {
	Seconds      int64 `json:"seconds"`
	Microseconds int64 `json:"microseconds"`
}

func (t timestamp) time() time.Time {
	if t.Seconds <= 0 || t.Microseconds < 0 || t.Microseconds >= 1_000_000 {
		return time.Time{}
	}
	return time.Unix(t.Seconds, t.Microseconds*1000)
}

// readMessage reads one line and decodes it. Empty lines are skipped.
func readMessage(r *bufio.Reader) (message, error) {
	for {
		line, err := readLine(r)
		if err != nil {
			return message{}, err
		}
		if len(line) == 0 {
			continue
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return message{}, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		return m, nil
	}
}

// readLine returns the next line, trimmed and newly allocated. A line longer than
// MaxMessage is an error.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > MaxMessage {
			return nil, fmt.Errorf("%w: a message of more than %d bytes", ErrProtocol, MaxMessage)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return bytes.TrimSpace(line), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}
