// SPDX-License-Identifier: Apache-2.0

package targetdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Origin is where adopted disks come from. What the installed system was given depends on
// it, so it remains with the disks.
type Origin struct {
	// Retained is the UID of the deleted target whose disks were adopted.
	Retained string `json:"retained"`
	// UID is that of the target that made the attempt with the ID Attempt, which was the
	// last one before the adoption. It differs from Retained if that target had adopted
	// the disks as well.
	UID     string `json:"uid"`
	Attempt int64  `json:"attempt"`
	// MAC and Address are those of the interface that the target booted from; "" if they
	// are unknown.
	MAC     string `json:"mac,omitempty"`
	Address string `json:"address,omitempty"`
}

// System is what the installed system reported when it phoned home.
type System struct {
	Hostname string   `json:"hostname,omitempty"`
	HostKeys []string `json:"hostKeys,omitempty"`
}

// Adoption describes retained disks and the target that adopts them.
type Adoption struct {
	// From is the directory of the retained disks, Dir that of the machine.
	From, Dir string
	// Disks are those of the machine. A disk that is smaller than declared is grown.
	Disks []Disk
	// Retained, MAC and Address are those of the Origin.
	Retained, MAC, Address string
	// Keep are the names of further files to keep.
	Keep []string
}

// Adopt makes retained disks those of a machine, with their record. They change hands by
// the rename of their directory, so that they have one owner at any time. For another target
// that adopts them the directory does not exist any more (fs.ErrNotExist). The
// other files of the former machine are deleted before. A call that was interrupted is
// completed by the next one. The machine's directory must not exist unless an interrupted
// call has moved it there.
func Adopt(a Adoption) (Record, error) {
	record, err := Load(a.Dir)
	if err != nil {
		return Record{}, err
	}
	if record.Generation == 0 {
		if record, err = a.move(); err != nil {
			return Record{}, fmt.Errorf("adopting the disks in %s: %w", a.From, err)
		}
	}
	if record.Origin != nil && record.Origin.Retained == a.Retained {
		return record, nil
	}
	for _, d := range a.Disks {
		if err := grow(d); err != nil {
			return Record{}, fmt.Errorf("adopting the disks in %s: %w", a.Dir, err)
		}
	}
	origin := &Origin{Retained: a.Retained, UID: a.Retained, Attempt: record.ID, MAC: a.MAC, Address: a.Address}
	if earlier := record.Origin; earlier != nil && record.ID <= earlier.Attempt {
		origin.UID = earlier.UID
	}
	record.Origin = origin
	return record, save(a.Dir, record)
}

// move moves the directory of the retained disks and returns their record.
func (a Adoption) move() (Record, error) {
	record, err := Load(a.From)
	if err != nil {
		return Record{}, err
	}
	if record.Generation == 0 {
		return Record{}, fmt.Errorf("the record of the disks is missing: %w", fs.ErrNotExist)
	}
	keep := append([]string{recordName}, a.Keep...)
	for _, d := range a.Disks {
		keep = append(keep, filepath.Base(d.Path))
	}
	files, err := os.ReadDir(a.From)
	if err != nil {
		return Record{}, err
	}
	for _, f := range files {
		if !slices.Contains(keep, f.Name()) {
			if err := os.RemoveAll(filepath.Join(a.From, f.Name())); err != nil {
				return Record{}, err
			}
		}
	}
	if err := os.MkdirAll(filepath.Dir(a.Dir), 0o700); err != nil {
		return Record{}, err
	}
	if err := os.Remove(a.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Record{}, err // it is not empty
	}
	return record, os.Rename(a.From, a.Dir)
}

// grow makes a disk as large as it is declared to be. It never makes one smaller.
func grow(d Disk) error {
	info, err := os.Lstat(d.Path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("disk %s is not a file", d.Path)
	case info.Size() >= d.FileSize():
		return nil
	}
	return os.Truncate(d.Path, d.FileSize())
}

// MarkPhonedHome records what the system that an attempt has installed reported. It is
// idempotent. If the disks belong to another attempt, it returns an error.
func MarkPhonedHome(dir string, a Attempt, s System) (Record, error) {
	record, err := current(dir, a)
	if err != nil {
		return record, err
	}
	record.System = &s
	return record, save(dir, record)
}
