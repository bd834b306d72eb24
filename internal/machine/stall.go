// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"time"
)

// WriteRetry is how often a Runner retries a guest's write that failed for
// another reason than a full file system.
const WriteRetry = 30 * time.Second

// Stall is why a machine does not execute although it should: QEMU stopped its
// guest when a write to a disk failed. Nothing is lost, the guest waits for the
// write. Its Runner resumes it as soon as the write can succeed.
type Stall struct {
	// Disk is the ID of the disk and Path its file.
	Disk, Path string
	// NoSpace: the file system of Path is full. Else the host's disk failed.
	NoSpace bool
	// Free and Needed are bytes: what the file system of Path has, and what it
	// must have for the guest to resume. Growth is what the disk can still grow by.
	Free, Needed, Growth int64
}

// Missing is how many bytes must be freed for the guest to resume.
func (s Stall) Missing() int64 { return max(0, s.Needed-s.Free) }

// String is a human-readable description with the remedy.
func (s Stall) String() string {
	if !s.NoSpace {
		return fmt.Sprintf("the host cannot write disk %s (%s): the guest is stopped and the write is tried again every %s; see the host's kernel log", s.Disk, s.Path, WriteRetry)
	}
	if s.Missing() == 0 {
		return fmt.Sprintf("there is room again for disk %s (%s): the guest resumes in a moment", s.Disk, s.Path)
	}
	return fmt.Sprintf("no space left for disk %s (%s): %d bytes are free and the guest, which is stopped, resumes with %d; free %d bytes (the disk can grow by %d)",
		s.Disk, s.Path, s.Free, s.Needed, s.Missing(), s.Growth)
}
