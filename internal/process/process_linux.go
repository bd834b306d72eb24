// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pidfdPoll is the interval at which a process is polled if pidfd is unavailable
// (kernels before 5.3, or forbidden by a sandbox).
const pidfdPoll = 200 * time.Millisecond

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// identify reads proc_pid_stat(5).
func identify(pid int, zombieToo bool) (Identity, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return Identity{}, ErrGone
	}
	if err != nil {
		return Identity{}, err
	}
	start, state, err := parseStat(b)
	if err != nil {
		return Identity{}, fmt.Errorf("reading /proc/%d/stat: %w", pid, err)
	}
	if !zombieToo && (state == 'Z' || state == 'X') {
		return Identity{}, ErrGone
	}
	boot, err := bootID()
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, Start: start, Boot: boot}, nil
}

// parseStat returns the start time (field 22) and the state (field 3). Field 2 is
// the program's name, which may contain spaces and parentheses, so fields are
// counted from the last closing parenthesis.
func parseStat(b []byte) (start uint64, state byte, err error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return 0, 0, errors.New("no program name")
	}
	fields := strings.Fields(string(b[end+1:]))
	const stateField, startField = 0, 22 - 3 // numbered from the state, field 3
	if len(fields) <= startField || len(fields[stateField]) != 1 {
		return 0, 0, errors.New("too few fields")
	}
	start, err = strconv.ParseUint(fields[startField], 10, 64)
	return start, fields[stateField][0], err
}

// Signal sends a signal to the process, never to another one with the same PID: it
// uses a pidfd that was opened before the identity was checked. It returns ErrGone
// if the process has ended.
func Signal(id Identity, sig syscall.Signal) error {
	fd, err := openPidfd(id)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return signalByPID(id, sig) // without pidfd
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return err
}

// openPidfd returns a pidfd of the process with this identity. It returns ErrGone
// if the process has ended, even if another process has its PID.
func openPidfd(id Identity) (int, error) {
	if id.PID <= 0 {
		return -1, ErrGone
	}
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.EINVAL) { // PIDFD_NONBLOCK requires Linux 5.10
		fd, err = unix.PidfdOpen(id.PID, 0)
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
	}
	if errors.Is(err, unix.ESRCH) {
		return -1, ErrGone
	}
	if err != nil {
		return -1, fmt.Errorf("opening process %d: %w", id.PID, err)
	}
	if !Alive(id) {
		unix.Close(fd)
		return -1, ErrGone
	}
	return fd, nil
}

// awaitEnd blocks until the process has ended, when its pidfd becomes readable, or
// until ctx is done.
func awaitEnd(ctx context.Context, id Identity) error {
	fd, err := openPidfd(id)
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return pollEnd(ctx, id, pidfdPoll)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Read(ended)
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, os.ErrNoDeadline) {
		return pollEnd(ctx, id, pidfdPoll)
	}
	return err
}

// ended reports whether a pidfd's process has ended, without blocking.
func ended(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1
}
