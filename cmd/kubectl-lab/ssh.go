// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/paths"
)

func (a *app) sshCommand() *cobra.Command {
	var options []string
	var terminal bool
	cmd := &cobra.Command{
		Use:   "ssh [USER@]MACHINE [-- COMMAND [ARGUMENT...]]",
		Short: "Log in to a machine or run a command on it",
		Long: `Log in to a machine or run a command on it, with OpenSSH's ssh.

The connection goes through the cluster's API server, the manager and the
provisioning server. The machine's host keys are verified against those that it reported during its installation. The exit status
is that of the command.

For scp, rsync and the like, see "kubectl lab ssh-config".`,
		Example: `  kubectl lab ssh target-1
  kubectl lab ssh target-1 -- cat /etc/os-release
  kubectl lab ssh -o LocalForward=8080:localhost:80 target-1`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeFirst(access.Target, access.Server),
		RunE: func(cmd *cobra.Command, args []string) error {
			command := args[1:]
			if len(command) > 0 && command[0] == "--" {
				command = command[1:]
			}
			var flags []string
			for _, o := range options {
				flags = append(flags, "-o", o)
			}
			if terminal {
				flags = append(flags, "-t")
			}
			return a.ssh(cmd, args[0], flags, command)
		},
	}
	// Everything after MACHINE belongs to the remote command.
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringArrayVarP(&options, "option", "o", nil, "ssh option in the format of ssh_config(5); can be repeated")
	cmd.Flags().BoolVarP(&terminal, "tty", "t", false, "allocate a terminal for the command")
	return cmd
}

func (a *app) sshConfigCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ssh-config [USER@]MACHINE",
		Short: "Print an ssh_config section for scp, rsync and the like",
		Long: `Print a section for ~/.ssh/config, for scp, rsync and the like.

The lab's private key and the machine's host keys are written to files in the
lab's runtime directory, which only you can enter. They are valid until the
machine is reinstalled; then run this command again.`,
		Example: `  kubectl lab ssh-config target-1 > lab.conf
  scp -F lab.conf file target-1:`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(access.Target, access.Server),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.sshConfig(cmd, args[0]) },
	}
}

// completeFirst completes the first argument only.
func (a *app) completeFirst(kinds ...access.Kind) cobra.CompletionFunc {
	complete := a.complete(kinds...)
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, typed)
	}
}

// prepare looks up how to log in to the machine, and the ProxyCommand that
// reaches it.
func (a *app) prepare(cmd *cobra.Command, arg string) (l *login, proxy string, err error) {
	user, name, found := strings.Cut(arg, "@")
	if !found {
		user, name = "", arg
	}
	m, err := a.machine(name)
	if err != nil {
		return nil, "", err
	}
	c, err := a.newClient()
	if err != nil {
		return nil, "", err
	}
	if l, err = lookUp(cmd.Context(), c, m, user); err != nil {
		return nil, "", err
	}
	cluster, err := clusterArguments(cmd.Flags())
	if err != nil {
		return nil, "", err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, "", fmt.Errorf("finding this program's path for ssh's ProxyCommand: %w", err)
	}
	return l, proxyCommandLine(executable, cluster, m), nil
}

// privateDir returns the lab's runtime directory, which only its owner can enter.
func privateDir() (string, error) {
	dirs, err := paths.Default()
	if err != nil {
		return "", err
	}
	return dirs.Runtime, dirs.Ensure()
}

func (a *app) ssh(cmd *cobra.Command, arg string, flags, command []string) error {
	program, err := exec.LookPath("ssh")
	if err != nil {
		return fmt.Errorf("looking up OpenSSH's ssh: %w; on Debian and Ubuntu, run \"apt-get install openssh-client\"", err)
	}
	l, proxy, err := a.prepare(cmd, arg)
	if err != nil {
		return err
	}
	base, err := privateDir()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(base, "ssh-")
	if err != nil {
		return fmt.Errorf("creating a directory for the SSH key: %w", err)
	}
	defer os.RemoveAll(dir)
	f, err := l.write(dir)
	if err != nil {
		return fmt.Errorf("writing the SSH key: %w", err)
	}
	var args []string
	args = append(args, flags...) // ssh uses the first value of an option
	for _, o := range l.options(f, proxy) {
		args = append(args, "-o", o.key+"="+o.value)
	}
	args = append(args, "--", hostName(l.machine))
	return a.runSSH(program, append(args, command...))
}

// runSSH runs ssh in the foreground and returns its status as an exitError.
func (a *app) runSSH(program string, args []string) error {
	// The terminal sends an interrupt to ssh as well; other signals are
	// forwarded, and this process stays to clean up.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	cmd := exec.Command(program, args...)
	cmd.Stdin = a.streams.In
	cmd.Stdout = a.streams.Out
	cmd.Stderr = a.streams.ErrOut
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting ssh: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if s != syscall.SIGINT && s != syscall.SIGQUIT {
				// ssh may have exited already.
				_ = cmd.Process.Signal(s)
			}
		case err := <-done:
			return sshStatus(err)
		}
	}
}

func sshStatus(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitError(128 + int(status.Signal()))
	}
	return exitError(exit.ExitCode())
}

func (a *app) sshConfig(cmd *cobra.Command, arg string) error {
	l, proxy, err := a.prepare(cmd, arg)
	if err != nil {
		return err
	}
	base, err := privateDir()
	if err != nil {
		return err
	}
	dir := filepath.Join(base, "ssh", l.alias)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("creating a directory for the SSH key: %w", err)
	}
	f, err := l.write(dir)
	if err != nil {
		return fmt.Errorf("writing the SSH key: %w", err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "Host %s %s\n", l.machine.Name, hostName(l.machine))
	for _, o := range l.options(f, proxy) {
		fmt.Fprintf(&text, "  %s %s\n", o.key, o.value)
	}
	_, err = fmt.Fprint(a.streams.Out, text.String())
	return err
}
