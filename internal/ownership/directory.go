// SPDX-License-Identifier: Apache-2.0

// Package ownership ensures exclusive ownership: a file lock allows one manager per data
// directory, and a Lease allows one data directory per cluster. An error names the
// current owner. A record in each machine's directory names the object that owns it.
//
// The file lock is the only lock on a data directory and its machines. Commands that
// use the machines without a manager, such as "lab down", take it as well.
//
// A cluster is owned by a data directory and not by a process, because the machines
// of a lab run on the host that has their disks. A manager that restarts with the
// same directory resumes immediately. A manager with another directory is rejected
// even if the first one has ended, because the first one's machines keep running and
// a second set would conflict with their addresses.
package ownership

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"github.com/pxelab/pxelab/internal/process"
)

// The files in a data directory.
const (
	lockName = "manager.lock"
	idName   = "id"
	keyName  = "digest.key"
	// epochName is the file with the highest epoch of a manager of the directory.
	epochName = "epoch"
)

// ErrInUse means that another process uses the data directory. Errors that wrap it contain
// the process.
var ErrInUse = errors.New("another manager")

// Directory is a data directory that this process owns.
type Directory struct {
	// ID identifies the directory permanently, even if it is moved.
	ID string
	// Location is its current location, "host:path".
	Location string
	// Host identifies this host, which others may have the same name as; empty if unknown.
	Host string
	// Instance identifies the directory itself until the host is booted again: no copy of
	// it has the same.
	Instance string
	// Key is a secret that belongs to the directory, at least 128 bits.
	Key []byte

	lock *flock.Flock
	// epochPath is "" for a directory that records no epoch.
	epochPath string
}

// holder is the owner of a lock, stored in the lock file for error messages.
type holder struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// AcquireDirectory locks an existing data directory without waiting. If another process
// has locked it the error wraps ErrInUse and names that process. The lock ends with Release or with the
// process.
func AcquireDirectory(dir string) (*Directory, error) {
	path := filepath.Join(dir, lockName)
	l := flock.New(path, flock.SetPermissions(0o600))
	held, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if !held {
		return nil, fmt.Errorf("%w%s uses %s; stop it first, or choose another --data-dir or PXELAB_DATA_DIR", ErrInUse, owner(path), dir)
	}
	d := &Directory{lock: l}
	if err := d.record(dir, path); err != nil {
		return nil, errors.Join(err, l.Unlock())
	}
	return d, nil
}

// record writes the owner into the lock file, and sets the directory's ID and place.
func (d *Directory) record(dir, path string) error {
	text, err := json.Marshal(holder{PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	// Written in place because this file is locked. It is only used in messages: a
	// full disk must not prevent the manager from starting.
	_ = os.WriteFile(path, text, 0o600)
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("looking up the host name: %w", err)
	}
	d.Location = host + ":" + dir
	d.Host = hostID(machineID())
	if d.Instance, err = instanceID(dir); err != nil {
		return fmt.Errorf("identifying %s: %w", dir, err)
	}
	d.epochPath = filepath.Join(dir, epochName)
	if d.ID, err = randomText(filepath.Join(dir, idName)); err != nil {
		return err
	}
	key, err := randomText(filepath.Join(dir, keyName))
	d.Key = []byte(key)
	return err
}

// instanceID returns the boot of the kernel, and the device and inode of a directory.
func instanceID(dir string) (string, error) {
	boot, err := process.BootID()
	if err != nil {
		return "", err
	}
	var s syscall.Stat_t
	if err := syscall.Stat(dir, &s); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s/%d/%d", boot, s.Dev, s.Ino), nil
}

// hostID returns an ID that is derived from the machine ID, which must not be published;
// "" for none.
func hostID(machine string) string {
	if machine == "" {
		return ""
	}
	mac := hmac.New(sha256.New, []byte(machine))
	mac.Write([]byte("pxelab.io/host"))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// owner returns " (process 1, since ...)" from a lock file, or "" if the file has
// no valid content.
func owner(path string) string {
	var h holder
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &h) != nil || h.PID == 0 {
		return ""
	}
	return fmt.Sprintf(" (process %d, since %s)", h.PID, h.Since.Format(time.RFC3339))
}

// randomText returns the text of a file, which it creates with a random one if needed.
func randomText(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		if known := strings.TrimSpace(string(text)); known != "" {
			return known, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	created := strings.ToLower(rand.Text())
	if err := renameio.WriteFile(path, []byte(created+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("writing %s: %w", path, err)
	}
	return created, nil
}

// lastEpoch returns the highest recorded epoch; 0 if there is none, or the record is
// damaged.
func (d *Directory) lastEpoch() (int64, error) {
	if d.epochPath == "" {
		return 0, nil
	}
	text, err := os.ReadFile(d.epochPath)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the epoch of the last manager: %w", err)
	}
	epoch, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		epoch = 0 // the Lease has it as well
	}
	return epoch, nil
}

// recordEpoch records the epoch of this process.
func (d *Directory) recordEpoch(epoch int64) error {
	if d.epochPath == "" {
		return nil
	}
	if err := renameio.WriteFile(d.epochPath, []byte(strconv.FormatInt(epoch, 10)+"\n"), 0o600); err != nil {
		return fmt.Errorf("recording the epoch: %w", err)
	}
	return nil
}

// Release releases the lock of the directory.
func (d *Directory) Release() error { return d.lock.Close() }
