// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/pxelab/pxelab/internal/access"
)

func (a *app) logsCommand() *cobra.Command {
	var follow, raw bool
	cmd := &cobra.Command{
		Use:   "logs MACHINE",
		Short: "Print the output of a machine's serial console",
		Long: `Print the output of a machine's serial console since its first start.

Control sequences, with which firmware and boot menus move the cursor and clear
the screen, are removed, and so are the secret tokens in the URLs that iPXE and
the kernel print during an installation. --raw keeps both.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(access.Target, access.Server),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.machine(args[0])
			if err != nil {
				return err
			}
			manager, err := a.manager()
			if err != nil {
				return err
			}
			log, err := manager.Log(cmd.Context(), m, access.LogOptions{Follow: follow})
			if err != nil {
				return err
			}
			defer log.Close()
			out := a.streams.Out
			if !raw {
				out = &plainWriter{to: out}
			}
			_, err = io.Copy(out, log)
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "keep streaming new output")
	cmd.Flags().BoolVar(&raw, "raw", false, "keep control sequences and tokens")
	return cmd
}

// plainWriter writes text without terminal control sequences (ECMA-48: escape
// sequences, control sequences, control strings, in 7 bits and as characters of UTF-8),
// control and formatting characters other than tab and line feed, bytes that are not UTF-8,
// and the tokens in machines' URLs (/m/TOKEN). A sequence, a character or a URL may be split
// at any point between two writes.
type plainWriter struct {
	to    io.Writer
	state func(*plainWriter, byte) bool
	// before is how many bytes of tokenPrefix were written last; inside a
	// token it is the whole length.
	before int
	// part has the first bytes of a character.
	part []byte
	out  []byte
}

// tokenPrefix precedes a machine's token in its URLs.
const tokenPrefix = "/m/"

// Write implements io.Writer.
func (w *plainWriter) Write(p []byte) (int, error) {
	w.out = w.out[:0]
	for _, c := range p {
		if w.state == nil {
			w.state = (*plainWriter).text
		}
		if w.state(w, c) {
			w.show(c)
		}
	}
	if _, err := w.to.Write(w.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// show appends a character of the text unless it is part of a token.
func (w *plainWriter) show(c byte) {
	if w.before == len(tokenPrefix) {
		// The alphabet of base64url (RFC 4648, section 5).
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			return
		}
		w.before = 0
	}
	w.out = append(w.out, c)
	switch c {
	case tokenPrefix[w.before]:
		if w.before++; w.before == len(tokenPrefix) {
			w.out = append(w.out, "..."...)
		}
	case tokenPrefix[0]:
		w.before = 1
	default:
		w.before = 0
	}
}

const escape = 0x1b

func (w *plainWriter) text(c byte) bool {
	if c >= utf8.RuneSelf {
		w.wide(c)
		return false
	}
	w.part = w.part[:0]
	if c == escape {
		w.state = (*plainWriter).escaped
		return false
	}
	return c == '\t' || c == '\n' || c >= ' ' && c != 0x7f
}

// wide adds a byte of a character beyond ASCII.
func (w *plainWriter) wide(c byte) {
	w.part = append(w.part, c)
	for len(w.part) > 0 && utf8.FullRune(w.part) {
		r, n := utf8.DecodeRune(w.part)
		switch {
		case r == utf8.RuneError && n == 1: // not UTF-8
		case unicode.IsPrint(r):
			for _, b := range w.part[:n] {
				w.show(b)
			}
		case r == 0x9b: // CSI
			w.state = (*plainWriter).control
		case r == 0x90 || r == 0x98 || r == 0x9d || r == 0x9e || r == 0x9f: // DCS, SOS, OSC, PM, APC
			w.state = (*plainWriter).controlString
		}
		w.part = w.part[:copy(w.part, w.part[n:])]
	}
}

// escaped is the state after ESC.
func (w *plainWriter) escaped(c byte) bool {
	switch {
	case c == '[':
		w.state = (*plainWriter).control
	case c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_':
		w.state = (*plainWriter).controlString
	case c == escape || c >= ' ' && c <= '/': // intermediate bytes, then a final one
	default:
		w.state = (*plainWriter).text
	}
	return false
}

// control is the state inside a control sequence: parameter bytes, intermediate
// bytes, then a final byte. A control character aborts the sequence.
func (w *plainWriter) control(c byte) bool {
	switch {
	case c == escape:
		w.state = (*plainWriter).escaped
	case c < ' ':
		w.state = (*plainWriter).text
		return w.text(c)
	case c >= '@':
		w.state = (*plainWriter).text
	}
	return false
}

// controlString is the state inside a control string, which ends with BEL,
// ESC \ or the last byte of U+009C. A line feed aborts it, so that the rest of the log is not lost.
func (w *plainWriter) controlString(c byte) bool {
	switch c {
	case 0x07, 0x9c:
		w.state = (*plainWriter).text
	case escape:
		w.state = (*plainWriter).escaped
	case '\n':
		w.state = (*plainWriter).text
		return true
	}
	return false
}
