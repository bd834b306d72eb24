// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"

	"github.com/spf13/cobra"
)

func (a *app) capacityCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "capacity",
		Short: "Print what machines use of the host, and which wait",
		Long: `Print how much of the host's memory the machines of all namespaces use, how many
targets are being installed, and the queue of machines that wait to be started or
installed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			manager, err := a.manager()
			if err != nil {
				return err
			}
			capacity, err := manager.Capacity(cmd.Context())
			if err != nil {
				return err
			}
			return capacity.Print(a.streams.Out, math.MaxInt)
		},
	}
}
