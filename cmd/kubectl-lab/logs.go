// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/pxelab/pxelab/internal/access"
)

func (a *app) logsCommand() *cobra.Command {
	var follow, raw bool
	cmd := &cobra.Command{
		Use:   "logs MACHINE",
		Short: "Print what a machine's serial console said",
		Long: `Print what a machine's serial console said, from its first start on.

Firmware and boot menus move the cursor and clear the screen; such control
sequences are left out unless --raw is given.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(access.Target, access.Server),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.machine(args[0])
			if err != nil {
				return err
			}
			manager, err := a.manager(cmd.Context())
			if err != nil {
				return err
			}
			log, err := manager.Log(cmd.Context(), m, follow)
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
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as the console says more")
	cmd.Flags().BoolVar(&raw, "raw", false, "leave control sequences in")
	return cmd
}

// plainWriter passes text on and leaves terminal control sequences out
// (ECMA-48: escape sequences, control sequences, control strings) as well as
// control characters other than tab and line feed. A sequence may be cut
// anywhere between two writes.
type plainWriter struct {
	to    io.Writer
	state func(*plainWriter, byte) bool
	out   []byte
}

// Write implements io.Writer.
func (w *plainWriter) Write(p []byte) (int, error) {
	w.out = w.out[:0]
	for _, c := range p {
		if w.state == nil {
			w.state = (*plainWriter).text
		}
		if w.state(w, c) {
			w.out = append(w.out, c)
		}
	}
	if _, err := w.to.Write(w.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

const escape = 0x1b

func (w *plainWriter) text(c byte) bool {
	if c == escape {
		w.state = (*plainWriter).escaped
		return false
	}
	return c == '\t' || c == '\n' || c >= ' ' && c != 0x7f
}

// escaped is after ESC.
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

// control is inside CSI: parameters, intermediates, then a final byte. A
// control character means that the sequence was broken off.
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

// controlString ends with BEL or ESC \; a line feed means that it was broken
// off, and that the rest of the log must not be swallowed with it.
func (w *plainWriter) controlString(c byte) bool {
	switch c {
	case 0x07:
		w.state = (*plainWriter).text
	case escape:
		w.state = (*plainWriter).escaped
	case '\n':
		w.state = (*plainWriter).text
		return true
	}
	return false
}
