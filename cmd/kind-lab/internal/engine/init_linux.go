// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Init is PID 1 of an engine's namespaces: it sets up the mounts, runs dockerd,
// reaps orphaned processes, and returns dockerd's exit status when it exits. The
// kernel then kills the remaining processes of the namespace.
func Init(dockerd []string) (status int, err error) {
	if os.Getpid() != 1 {
		return 1, errors.New("init must be PID 1 of the engine's PID namespace")
	}
	if err := mounts(); err != nil {
		return 1, err
	}
	// Subscribe before the start, so that no exiting child is missed.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	cmd := exec.Command(dockerd[0], dockerd[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("starting dockerd: %w", err)
	}
	for s := range signals {
		if s != syscall.SIGCHLD {
			_ = cmd.Process.Signal(s)
			continue
		}
		if status, ended := reap(cmd.Process.Pid); ended {
			return status, nil
		}
	}
	return 0, nil
}

// reap collects all exited children, and reports whether pid was among them. No
// other code waits for children.
func reap(pid int) (status int, ended bool) {
	for {
		var how syscall.WaitStatus
		got, err := syscall.Wait4(-1, &how, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil || got <= 0:
			return status, ended
		case got == pid:
			status, ended = how.ExitStatus(), true
			if how.Signaled() {
				status = 128 + int(how.Signal())
			}
		}
	}
}

// mounts separates the mount namespace: later mounts of the host appear in it,
// mounts of the engine do not appear on the host.
func mounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separating the engine's mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting the engine's /proc: %w", err)
	}
	for _, dir := range hidden {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711"); err != nil {
			return fmt.Errorf("mounting over %s: %w", dir, err)
		}
	}
	return nil
}
