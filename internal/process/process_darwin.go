// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endPoll is the interval at which a process is polled.
const endPoll = 250 * time.Millisecond

// zombie is SZOMB of <sys/proc.h>.
const zombie = 5

func bootID() (string, error) { return unix.Sysctl("kern.bootsessionuuid") }

func identify(pid int, zombieToo bool) (Identity, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	// For an unused PID the kernel returns an empty result, which the wrapper
	// reports as EIO.
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EIO) {
		return Identity{}, ErrGone
	}
	if err != nil {
		return Identity{}, fmt.Errorf("looking up process %d: %w", pid, err)
	}
	if int(info.Proc.P_pid) != pid || !zombieToo && info.Proc.P_stat == zombie {
		return Identity{}, ErrGone
	}
	boot, err := bootID()
	if err != nil {
		return Identity{}, err
	}
	t := info.Proc.P_starttime
	return Identity{PID: pid, Start: uint64(t.Sec)*1_000_000 + uint64(t.Usec), Boot: boot}, nil
}

// Signal sends a signal to the process. macOS has no process handles, so it checks
// the identity immediately before. It returns ErrGone if the process has ended.
func Signal(id Identity, sig syscall.Signal) error { return signalByPID(id, sig) }

func awaitEnd(ctx context.Context, id Identity) error { return pollEnd(ctx, id, endPoll) }
