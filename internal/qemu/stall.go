// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/qmp"
)

const (
	// runStateIOError is QEMU's word for a guest that it stopped because a write
	// to a disk failed.
	runStateIOError = "io-error"
	// roomToGoOn is what must be free before a guest that filled the file system
	// goes on: less would only stop it again at once.
	roomToGoOn = 64 << 20
	// stallCheck is how often a stopped guest's disk is looked at, and
	// failureRetry how often a write that failed for another reason than a full
	// file system is tried again.
	stallCheck   = 2 * time.Second
	failureRetry = 30 * time.Second
)

// Stall is why a machine does not execute although it should: QEMU stopped its
// guest when a write to a disk failed. Nothing is lost, the guest waits for the
// write. Its Runner lets it go on as soon as the write can succeed.
type Stall struct {
	// Disk is the ID of the disk and Path its file.
	Disk, Path string
	// NoSpace: the file system of Path is full. Else the host's disk failed.
	NoSpace bool
	// Free and Needed are bytes: what the file system of Path has, and what it
	// must have for the guest to go on. Growth is what the disk can still grow by.
	Free, Needed, Growth int64
}

// patience decides when a guest that a failed write has stopped goes on.
type patience struct {
	triedAt time.Time
	// refused is with how much room the guest was let go on only to stop again.
	refused int64
}

// stopped takes note of a guest that was found stopped. One write can want more
// than what seemed enough: a guest may zero a gigabyte by one command.
func (p *patience) stopped(s *Stall, now time.Time) {
	if !p.lately(now) || !s.NoSpace {
		p.refused = 0
	} else if s.Missing() == 0 {
		p.refused = s.Free
	}
	s.demand(p.refused)
}

// goesOn tells whether the guest is let go on now: when there is room, or now
// and then where nobody can know what the write wants.
func (p *patience) goesOn(s *Stall, now time.Time) bool {
	if s.NoSpace && s.Missing() == 0 {
		return true
	}
	return (!s.NoSpace || p.refused > 0) && !p.lately(now)
}

// lately tells whether the guest was let go on a moment ago.
func (p *patience) lately(now time.Time) bool { return now.Sub(p.triedAt) < failureRetry }

// demand raises what is needed beyond what was not enough; 0 for nothing.
func (s *Stall) demand(refused int64) {
	if refused > 0 {
		s.Needed = max(s.Needed, refused+roomToGoOn)
	}
}

// Missing is how many bytes must be freed for the guest to go on.
func (s Stall) Missing() int64 { return max(0, s.Needed-s.Free) }

// String says it for people, with what to do.
func (s Stall) String() string {
	if !s.NoSpace {
		return fmt.Sprintf("the host cannot write disk %s (%s): the guest is stopped and the write is tried again every %s; see the host's kernel log", s.Disk, s.Path, failureRetry)
	}
	if s.Missing() == 0 {
		return fmt.Sprintf("there is room again for disk %s (%s): the guest goes on in a moment", s.Disk, s.Path)
	}
	return fmt.Sprintf("no space left for disk %s (%s): %d bytes are free and the guest, which is stopped, goes on with %d; free %d bytes (the disk can grow by %d)",
		s.Disk, s.Path, s.Free, s.Needed, s.Missing(), s.Growth)
}

// stalled asks a machine in the run state "io-error" for the disk that failed;
// nil when none says so any more.
func (m *machine) stalled(ctx context.Context, client *qmp.Client, declared Machine) (*Stall, error) {
	var all []struct {
		// Device is the QOM path, /machine/peripheral/<id>/virtio-backend.
		Device   string `json:"qdev"`
		IOStatus string `json:"io-status"`
		Inserted struct {
			Image struct {
				VirtualSize int64 `json:"virtual-size"`
			} `json:"image"`
		} `json:"inserted"`
	}
	if err := client.Execute(ctx, "query-block", nil, &all); err != nil {
		return nil, err
	}
	for _, b := range all {
		i := slices.IndexFunc(declared.Disks, func(d Disk) bool { return d.ID == filepath.Base(filepath.Dir(b.Device)) })
		if i < 0 || b.IOStatus == "" || b.IOStatus == "ok" {
			continue
		}
		s := &Stall{Disk: declared.Disks[i].ID, Path: declared.Disks[i].Path, NoSpace: b.IOStatus == "nospace"}
		err := s.measure(b.Inserted.Image.VirtualSize)
		s.demand(m.refused.Load())
		return s, err
	}
	return nil, nil
}

// measure looks at the file system.
func (s *Stall) measure(virtualSize int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.Path, &fs); err != nil {
		return fmt.Errorf("looking for free space at %s: %w", s.Path, err)
	}
	var file syscall.Stat_t
	if err := syscall.Stat(s.Path, &file); err != nil {
		return fmt.Errorf("looking at disk %s: %w", s.Path, err)
	}
	s.Free = int64(fs.Bavail) * int64(fs.Bsize) //nolint:unconvert // 32 bits on macOS
	s.Growth = max(0, virtualSize-file.Blocks*512)
	// A disk that is all but full needs no more than the rest, and a qcow2 file a
	// little for its tables.
	s.Needed = min(roomToGoOn, s.Growth+1<<20)
	return nil
}

// tendStall lets a guest that was stopped by a failed write go on once the write
// can succeed. It is level-triggered: it looks at what is, so that a stop that
// happened before this program started is found as well.
func (m *machine) tendStall(ctx context.Context, log logr.Logger) {
	tick := time.NewTicker(stallCheck)
	defer tick.Stop()
	var p patience
	known := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.stopped:
		case <-tick.C:
			if !known {
				continue
			}
		}
		if !known && !p.lately(time.Now()) {
			m.refused.Store(0) // whatever stops the guest now is another write
		}
		s, client := m.stallNow(ctx)
		if client == nil {
			continue // it does not answer: known stays as it was
		}
		if s == nil {
			known = false
			continue
		}
		if !known {
			p.stopped(s, time.Now())
			m.refused.Store(p.refused)
			log.Info("A failed write stopped the guest", "disk", s.Path, "noSpace", s.NoSpace, "free", s.Free, "needed", s.Needed)
			m.local.publish(m.id, EventChanged, s.String())
		}
		known = true
		if !p.goesOn(s, time.Now()) {
			continue
		}
		p.triedAt = time.Now()
		if err := client.Execute(ctx, "cont", nil, nil); err != nil {
			log.V(1).Info("The guest does not go on yet", "error", err.Error())
			continue
		}
		log.Info("The guest goes on", "disk", s.Path, "free", s.Free)
		known = false // should it stop again, an event tells
	}
}

// stallNow is why the guest is stopped by a failed write; nil when it is not.
// The client is nil when QEMU did not answer.
func (m *machine) stallNow(ctx context.Context) (*Stall, *qmp.Client) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	r, client := m.snapshot()
	if client == nil {
		return nil, nil
	}
	runState, err := queryStatus(ctx, client)
	if err != nil {
		return nil, nil
	}
	if runState != runStateIOError {
		return nil, client
	}
	s, err := m.stalled(ctx, client, r.Machine)
	if err != nil {
		return nil, nil
	}
	return s, client
}

// maybeStopped has tendStall look.
func (m *machine) maybeStopped() {
	select {
	case m.stopped <- struct{}{}:
	default:
	}
}
