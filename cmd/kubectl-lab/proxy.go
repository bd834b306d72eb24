// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net"

	"github.com/spf13/cobra"
)

func (a *app) proxyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "proxy MACHINE",
		Short: "Connect standard input and output to a machine's SSH port",
		Long: "Connect standard input and output to a machine's SSH port, for ssh's ProxyCommand.\n" +
			"Only the access API is used: no other permission in the cluster is needed.",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.machine(args[0])
			if err != nil {
				return err
			}
			manager, err := a.manager()
			if err != nil {
				return err
			}
			conn, err := manager.SSH(cmd.Context(), m)
			if err != nil {
				return err
			}
			defer conn.Close()
			return bridge(a.streams.In, a.streams.Out, conn)
		},
	}
}

// bridge copies in to conn and conn to out, and returns when conn ends. It may
// leave a goroutine waiting for input, which ends with the process.
func bridge(in io.Reader, out io.Writer, conn net.Conn) error {
	go func() {
		_, err := io.Copy(conn, in)
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite()
		}
	}()
	_, err := io.Copy(out, conn)
	return err
}
