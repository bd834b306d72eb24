// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pxelab/pxelab/internal/access"
)

// detachKey is Ctrl-], as in telnet: shells and editors do not use it.
const detachKey = 0x1d

func (a *app) consoleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "console MACHINE",
		Short: "Attach to a machine's serial console",
		Long: `Attach to a machine's serial console. Detach with Ctrl-].

Several users can be attached at the same time; all see the same output and all
can type. "kubectl lab logs" prints the earlier output.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(access.Target, access.Server),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.console(cmd.Context(), args[0]) },
	}
}

func (a *app) console(ctx context.Context, arg string) error {
	m, err := a.machine(arg)
	if err != nil {
		return err
	}
	manager, err := a.manager()
	if err != nil {
		return err
	}
	conn, err := manager.Console(ctx, m)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	fmt.Fprintf(a.streams.ErrOut, "Attached to %s. Detach with Ctrl-]; press Enter for a prompt.\n", m)
	restore, err := a.rawTerminal()
	if err != nil {
		return err
	}
	detached := attach(a.streams.In, a.streams.Out, conn)
	restore()
	if detached || ctx.Err() != nil {
		fmt.Fprintf(a.streams.ErrOut, "\nDetached from %s.\n", m)
		return nil
	}
	fmt.Fprintf(a.streams.ErrOut, "\nThe console of %s is closed: the machine was powered off or the manager stopped.\n", m)
	return nil
}

// rawTerminal puts the terminal into raw mode if the input is a terminal.
func (a *app) rawTerminal() (restore func(), err error) {
	file, ok := a.streams.In.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return func() {}, nil
	}
	state, err := term.MakeRaw(int(file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("setting the terminal to raw mode: %w", err)
	}
	return func() { _ = term.Restore(int(file.Fd()), state) }, nil
}

// attach connects the terminal and the console until the user detaches, the
// input ends, or the console closes; only the last case returns false. It may
// leave a goroutine waiting for input, which ends with the process.
func attach(in io.Reader, out io.Writer, conn net.Conn) (detached bool) {
	left := make(chan struct{})
	go func() {
		if errors.Is(copyKeys(conn, in), errDetach) {
			close(left)
			conn.Close()
		}
	}()
	_, _ = io.Copy(out, conn)
	select {
	case <-left:
		return true
	default:
		return false
	}
}

var errDetach = errors.New("detached")

// copyKeys copies keyboard input. It returns errDetach at the detach key and at
// the end of the input.
func copyKeys(to io.Writer, from io.Reader) error {
	buffer := make([]byte, 1024)
	for {
		n, err := from.Read(buffer)
		typed := buffer[:n]
		at := bytes.IndexByte(typed, detachKey)
		if at >= 0 {
			typed = typed[:at]
		}
		if len(typed) > 0 {
			if _, err := to.Write(typed); err != nil {
				return err
			}
		}
		if at >= 0 || errors.Is(err, io.EOF) {
			return errDetach
		}
		if err != nil {
			return err
		}
	}
}
