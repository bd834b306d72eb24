// SPDX-License-Identifier: Apache-2.0

// Package claim keeps managers apart: one on a data directory, by a file lock,
// and one data directory on a cluster, by a Lease. Whoever comes second is told
// who was first.
//
// A cluster is claimed for a data directory and not for a process: the machines
// of a lab run on the host that has their disks. A manager that is started anew
// on the same directory goes on at once; one with another directory is refused
// even when the first has died, because the first one's machines live on and a
// second set of them would fight over the same addresses.
package claim

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
)

// The files in a data directory.
const (
	lockName = "manager.lock"
	idName   = "id"
)

// Directory is a data directory that nobody else works on.
type Directory struct {
	// ID names the directory for all time, wherever it is moved.
	ID string
	// Place is where it is now, "host:path".
	Place string

	lock *flock.Flock
}

// holder is what a lock's owner writes into it, for who comes second.
type holder struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// TakeDirectory claims a data directory, which exists. An error names the
// manager that has it. The claim ends with Release, or with the process however
// that ends.
func TakeDirectory(dir string) (*Directory, error) {
	path := filepath.Join(dir, lockName)
	l := flock.New(path, flock.SetPermissions(0o600))
	held, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if !held {
		return nil, fmt.Errorf("another manager%s runs on %s; stop it first, or choose another --data-dir", owner(path), dir)
	}
	d := &Directory{lock: l}
	if err := d.sign(dir, path); err != nil {
		return nil, errors.Join(err, l.Unlock())
	}
	return d, nil
}

// sign writes who has the directory, and reads which it is.
func (d *Directory) sign(dir, path string) error {
	text, err := json.Marshal(holder{PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	// Into the very file that is locked. It only serves a message: a full disk
	// must not keep the manager from starting.
	_ = os.WriteFile(path, text, 0o600)
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("asking for the host's name: %w", err)
	}
	d.Place = host + ":" + dir
	d.ID, err = identify(filepath.Join(dir, idName))
	return err
}

// owner is " (process 1, since ...)" as far as a lock's file says.
func owner(path string) string {
	var h holder
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &h) != nil || h.PID == 0 {
		return ""
	}
	return fmt.Sprintf(" (process %d, since %s)", h.PID, h.Since.Format(time.RFC3339))
}

// identify reads the directory's ID, making it at first.
func identify(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		if id := strings.TrimSpace(string(text)); id != "" {
			return id, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading the data directory's ID: %w", err)
	}
	id := strings.ToLower(rand.Text())
	if err := renameio.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("writing the data directory's ID: %w", err)
	}
	return id, nil
}

// Release lets go of the directory.
func (d *Directory) Release() error { return d.lock.Close() }
