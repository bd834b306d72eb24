// SPDX-License-Identifier: Apache-2.0

package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
)

type opcode uint16

const (
	opRead  opcode = 1
	opWrite opcode = 2
	opData  opcode = 3
	opAck   opcode = 4
	opError opcode = 5
	opOACK  opcode = 6
)

type errorCode uint16

const (
	codeUndefined    errorCode = 0
	codeNotFound     errorCode = 1
	codeAccess       errorCode = 2
	codeIllegal      errorCode = 4
	codeOptionDenied errorCode = 8
)

// remoteError is an error packet, sent or received.
type remoteError struct {
	code errorCode
	text string
}

func (e *remoteError) Error() string {
	return fmt.Sprintf("error %d: %s", e.code, e.text)
}

func (e *remoteError) packet() []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(opError))
	b = binary.BigEndian.AppendUint16(b, uint16(e.code))
	return append(append(b, e.text...), 0)
}

const (
	minBlockSize     = 8
	maxBlockSize     = 65464
	defaultBlockSize = 512
	// maxErrorText limits what a hostile client can write to the log, in bytes.
	maxErrorText = 128
)

// request is a read request with a clean name and the supported options; an
// absent option is zero.
type request struct {
	name      string
	blockSize int
	window    int
	timeout   time.Duration
	size      bool // the client asked for the size
}

// hasOptions reports whether the client negotiates options, which requires an
// OACK.
func (r request) hasOptions() bool {
	return r.blockSize != 0 || r.window != 0 || r.timeout != 0 || r.size
}

var errNotRequest = errors.New("not a request")

// parseRequest parses the first packet of a transfer. The error is errNotRequest
// for a packet to ignore, otherwise a *remoteError to send.
func parseRequest(b []byte) (request, error) {
	if len(b) < 2 {
		return request{}, errNotRequest
	}
	switch opcode(binary.BigEndian.Uint16(b)) {
	case opRead:
	case opWrite:
		return request{}, &remoteError{codeAccess, "this server is read-only"}
	default:
		return request{}, errNotRequest
	}
	fields, ok := splitStrings(b[2:])
	if !ok || len(fields) < 2 {
		return request{}, &remoteError{codeIllegal, "malformed request"}
	}
	name, err := cleanName(fields[0])
	if err != nil {
		return request{}, err
	}
	if mode := strings.ToLower(fields[1]); mode != "octet" {
		return request{}, &remoteError{codeIllegal, "only mode octet is supported"}
	}
	r := request{name: name}
	for i := 2; i+1 < len(fields); i += 2 {
		r.option(strings.ToLower(fields[i]), fields[i+1])
	}
	return r, nil
}

// option stores one option. An unknown or invalid option is omitted from the
// OACK, as RFC 2347 requires.
func (r *request) option(name, value string) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return
	}
	switch name {
	case "blksize":
		if n >= minBlockSize {
			r.blockSize = int(min(n, maxBlockSize))
		}
	case "timeout":
		if n >= 1 && n <= 255 {
			r.timeout = time.Duration(n) * time.Second
		}
	case "windowsize":
		if n >= 1 && n <= 65535 {
			r.window = int(n)
		}
	case "tsize":
		r.size = true
	}
}

// splitStrings splits zero-terminated strings. The last may lack its terminator,
// which old firmware omits.
func splitStrings(b []byte) ([]string, bool) {
	const maxFields = 2 + 2*16
	b = bytes.TrimRight(b, "\x00") // padding, and the last terminator
	if len(b) == 0 {
		return nil, false
	}
	fields := strings.SplitN(string(b), "\x00", maxFields+1)
	return fields, len(fields) <= maxFields
}

// cleanName makes a client's file name relative and free of "..". It ends the name before
// the first byte that no served name has, which firmware appends that reads a DHCP option as
// a zero-terminated string.
func cleanName(name string) (string, error) {
	if end := strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r > '~' }); end >= 0 {
		name = name[:end]
	}
	name = strings.ReplaceAll(name, `\`, "/")
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "", &remoteError{codeAccess, "invalid file name"}
	}
	return name, nil
}

func appendOption(b []byte, name string, value int64) []byte {
	b = append(append(b, name...), 0)
	return append(strconv.AppendInt(b, value, 10), 0)
}

// parseReply parses a packet that a client sends during a transfer: an
// acknowledged block number or an error. ok is false for all other packets.
func parseReply(b []byte) (block uint16, remote *remoteError, ok bool) {
	if len(b) < 4 {
		return 0, nil, false
	}
	arg := binary.BigEndian.Uint16(b[2:])
	switch opcode(binary.BigEndian.Uint16(b)) {
	case opAck:
		return arg, nil, true
	case opError:
		text, _, _ := bytes.Cut(b[4:], []byte{0})
		return 0, &remoteError{errorCode(arg), printable(text)}, true
	}
	return 0, nil, false
}

func printable(b []byte) string {
	b = b[:min(len(b), maxErrorText)]
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(string(b), "?"))
}
