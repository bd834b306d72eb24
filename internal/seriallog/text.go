// SPDX-License-Identifier: Apache-2.0

package seriallog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxTail is how many bytes of a log are examined. A panic with its call
	// trace and the last messages of a boot are far shorter.
	MaxTail = 64 << 10

	maxLines = 6
	maxLine  = 200 // bytes
	// longLine is the length in bytes to which a line is cut before it is
	// examined.
	longLine = 2048
)

// Tail reads at most the last MaxTail bytes of a log, starting no earlier than
// offset. An offset beyond the end means that the log was truncated, and counts
// as 0. A missing log is empty.
func Tail(path string, offset int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the serial log: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("reading the serial log: %w", err)
	}
	if offset < 0 || offset > size {
		offset = 0
	}
	from := max(offset, size-MaxTail)
	b, err := io.ReadAll(io.NewSectionReader(f, from, size-from))
	if err != nil {
		return nil, fmt.Errorf("reading the serial log: %w", err)
	}
	if from > offset {
		// Drop the first, partial line: it may be the end of a secret.
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	return b, nil
}

// clean converts terminal output to plain lines, without escape sequences,
// control characters and empty lines. Of a line that was overwritten it keeps
// the last text. It redacts secrets.
func clean(text []byte) []string {
	if len(text) > MaxTail {
		_, text, _ = bytes.Cut(text[len(text)-MaxTail:], []byte("\n"))
	}
	var lines []string
	for line := range strings.SplitSeq(unescape(text), "\n") {
		for part := range strings.SplitSeq(line, "\r") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			line = part
		}
		line = strings.TrimSpace(strings.ReplaceAll(line, "\r", ""))
		if line != "" {
			lines = append(lines, redact(clipText(line, longLine)))
		}
	}
	return lines
}

// unescape removes escape sequences (ECMA-48) and control characters. A sequence
// that moves the cursor starts a new line, and a backspace removes the character
// before it.
func unescape(text []byte) string {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		c := text[0]
		if c == 0x1b {
			n, moves := escape(text)
			if moves {
				out = append(out, '\n')
			}
			text = text[n:]
			continue
		}
		r, n := utf8.DecodeRune(text)
		text = text[n:]
		switch {
		case c == '\n' || c == '\r':
			out = append(out, c)
		case c == '\t':
			out = append(out, ' ')
		case c == '\b':
			if before, size := utf8.DecodeLastRune(out); before != '\n' && before != '\r' {
				out = out[:len(out)-size]
			}
		case r == utf8.RuneError && n <= 1:
			out = append(out, '?')
		case unicode.IsPrint(r):
			out = utf8.AppendRune(out, r)
		}
	}
	return string(out)
}

// maxSequence is the maximum length of an escape sequence in bytes.
const maxSequence = 256

// escape returns the length of the escape sequence at the start of text, and
// whether the sequence moves the cursor or clears the screen.
func escape(text []byte) (length int, moves bool) {
	if len(text) < 2 {
		return len(text), false
	}
	end := min(len(text), maxSequence)
	switch c := text[1]; {
	case c == '[': // CSI: parameters, then a final byte
		for i := 2; i < end; i++ {
			if text[i] >= 0x40 && text[i] <= 0x7e {
				return i + 1, strings.IndexByte("HfJABEF", text[i]) >= 0
			}
			if text[i] < 0x20 || text[i] > 0x7e {
				return i, false // incomplete
			}
		}
		return 2, false
	case c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_': // a string, up to BEL or ESC \
		for i := 2; i < end; i++ {
			if text[i] == 0x07 {
				return i + 1, false
			}
			if text[i] == 0x1b {
				return i, false
			}
			if text[i] == '\n' {
				break
			}
		}
		return 2, false
	case c >= 0x20 && c <= 0x2f: // one more byte
		return min(3, len(text)), false
	case c < 0x20 || c > 0x7e:
		return 1, false
	default:
		return 2, c == 'c' || c == 'E'
	}
}

var (
	// tokenPath matches the secret part of a machine's URLs.
	tokenPath = regexp.MustCompile(`/m/[A-Za-z0-9_-]+`)
	// assigned matches the assignment of a value to a secret's name.
	assigned = regexp.MustCompile(`(?i)(passwo?r?d|passphrase|secret|token|api[-_ ]?key)(["']?\s*[=:]\s*["']?)[^\s"',;]+`)
)

// redact replaces secrets. The line must have its beginning, without which a
// secret could be unrecognisable.
func redact(line string) string {
	line = tokenPath.ReplaceAllString(line, "/m/...")
	return assigned.ReplaceAllString(line, "${1}${2}...")
}

// clipText cuts a text to at most limit bytes, between characters, and marks the
// cut.
func clipText(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + "…"
}

// clipLines keeps the last maxLines lines, each cut to maxLine bytes.
func clipLines(lines []string) []string {
	if len(lines) > maxLines {
		lines = lines[len(lines)-maxLines:]
	}
	out := make([]string, 0, len(lines))
	for _, l := range lines {
		out = append(out, clipText(l, maxLine))
	}
	return out
}

// programStarts are printed when a program takes over from the firmware,
// firmwareStarts when the firmware tries a boot option. A kernel with the
// argument quiet prints nothing; then its loader's line marks the start.
var (
	programStarts = []string{
		"iPXE initialising devices", "EFI stub: ", "pxelab: installer started", "Linux version ", "Booting Linux on physical CPU",
	}
	firmwareStarts = []string{
		">>Start PXE over", ">>Start HTTP Boot over", "BdsDxe: starting Boot", "BdsDxe: loading Boot",
	}
)

// since returns the lines from the last one that contains one of starts, or all
// lines if there is none.
func since(lines []string, starts ...string) []string {
	start := last(lines, func(l string) bool {
		return slices.ContainsFunc(starts, func(s string) bool { return strings.Contains(l, s) })
	})
	return lines[max(0, start):]
}
