// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu/internal/qmp"
)

const (
	// runStateIOError is the run state of a guest that QEMU stopped because a write
	// to a disk failed.
	runStateIOError = "io-error"
	// resumeReserve is the free space required to resume a guest that filled the
	// file system. With less, the guest would stop again immediately.
	resumeReserve = 64 << 20
)

// resumePolicy decides when to resume a guest that a failed write has stopped.
type resumePolicy struct {
	triedAt time.Time
	// refused is the free space with which the last resumed guest stopped again.
	refused int64
}

// stopped records that the guest was found stopped. One write can need more than
// resumeReserve: a guest may zero a gigabyte with one command.
func (p *resumePolicy) stopped(s *machine.Stall, now time.Time) {
	if !p.triedRecently(now) || !s.NoSpace {
		p.refused = 0
	} else if s.Missing() == 0 {
		p.refused = s.Free
	}
	demand(s, p.refused)
}

// shouldResume reports whether to resume the guest now: when there is enough
// space, and once per machine.WriteRetry when the space that the write needs is
// unknown.
func (p *resumePolicy) shouldResume(s *machine.Stall, now time.Time) bool {
	if s.NoSpace && s.Missing() == 0 {
		return true
	}
	return (!s.NoSpace || p.refused > 0) && !p.triedRecently(now)
}

// triedRecently reports whether the guest was resumed within machine.WriteRetry.
func (p *resumePolicy) triedRecently(now time.Time) bool {
	return now.Sub(p.triedAt) < machine.WriteRetry
}

// demand raises s.Needed above the free space that was not enough; 0 means that
// none is known.
func demand(s *machine.Stall, refused int64) {
	if refused > 0 {
		s.Needed = max(s.Needed, refused+resumeReserve)
	}
}

// failedDisk queries a machine in the run state "io-error" for the disk that failed.
// It returns nil when no disk reports an error any more.
func failedDisk(ctx context.Context, client *qmp.Client, declared machine.Machine) (*machine.Stall, error) {
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
		i := slices.IndexFunc(declared.Disks, func(d machine.Disk) bool { return d.ID == filepath.Base(filepath.Dir(b.Device)) })
		if i < 0 || b.IOStatus == "" || b.IOStatus == "ok" {
			continue
		}
		s := &machine.Stall{Disk: declared.Disks[i].ID, Path: declared.Disks[i].Path, NoSpace: b.IOStatus == "nospace"}
		return s, measure(s, b.Inserted.Image.VirtualSize)
	}
	return nil, nil
}

// measure sets the stall's Free, Growth and Needed from the disk's file system.
func measure(s *machine.Stall, virtualSize int64) error {
	free, err := hostfs.FreeSpace(s.Path)
	if err != nil {
		return fmt.Errorf("measuring the free space for a disk: %w", err)
	}
	file, err := os.Stat(s.Path)
	if err != nil {
		return fmt.Errorf("measuring a disk: %w", err)
	}
	s.Free = free
	s.Growth = max(0, virtualSize-hostfs.AllocatedBytes(file))
	// A disk that is nearly allocated needs only the rest, and a qcow2 file up to
	// 1 MiB for its tables.
	s.Needed = min(resumeReserve, s.Growth+1<<20)
	return nil
}
