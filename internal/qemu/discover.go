// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
)

// A machine is unknown while its record cannot be read, or if the record is gone although
// a process of the machine exists. It is in PhaseUnresponsive until the process is found
// by its QMP socket, and nothing is started, stopped or removed meanwhile: a second
// process would destroy the disks.

// errRecordLost is returned when a process of a machine has no record.
var errRecordLost = errors.New("the record of this machine's QEMU process is lost")

// load reads the record of the machine, the zero record if there is none. It sets a
// damaged record aside. Other errors may be those of a host that is short of resources.
func (m *instance) load() (record, error) {
	path := m.local.paths(m.id).Record
	r, err := load(path, m.id)
	switch {
	case errors.Is(err, errDamaged):
		if moved := hostfs.SetAside(path, unusablePath(path)); moved != nil {
			return record{}, errors.Join(err, moved)
		}
		m.local.log.Error(err, "A machine's record is damaged and was set aside", "machine", m.id)
		return record{}, nil
	case errors.Is(err, os.ErrNotExist):
		return record{}, nil
	}
	return r, err
}

// identified returns why it is not known whether, or as which process, the machine runs;
// nil if it is. The caller holds mu.
func (m *instance) identified() error {
	if m.unknown == nil {
		return nil
	}
	return fmt.Errorf("it is not known yet as which process the machine runs: %w", m.unknown)
}

// discover repeats identify until it succeeds or the Local is closed.
func (m *instance) discover() {
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		err := m.identify()
		if err == nil || m.local.ctx.Err() != nil {
			return
		}
		changed := false
		m.update(func() {
			changed = m.unknown.Error() != err.Error()
			m.unknown = err
		})
		if changed {
			m.local.log.Error(err, "It is not known as which process a machine runs; retrying", "machine", m.id)
			m.local.publish(m.id, machine.EventChanged, err.Error())
		}
		select {
		case <-time.After(retry):
		case <-m.local.ctx.Done():
			return
		}
	}
}

// identify supervises the process of an unknown machine, from its record or from what
// QEMU reports, or records that none exists.
func (m *instance) identify() error {
	r, err := m.load()
	if err != nil {
		return err
	}
	if r.Machine.ID != "" {
		m.update(func() { m.record, m.unknown = r, nil })
		m.local.publish(m.id, machine.EventChanged, "record read")
		m.adopt()
		return nil
	}
	p := m.local.paths(m.id)
	found, err := inspect(m.local.ctx, p.QMP, m.id)
	if err != nil {
		return err
	}
	if found.process == (process.Identity{}) {
		if err := checkLock(p.Log); err != nil {
			return fmt.Errorf("%w, and nothing answers at %s; end the process whose arguments contain the machine's ID %s: %w",
				errRecordLost, p.QMP, m.id, err)
		}
		m.update(func() { m.unknown = nil })
		m.local.publish(m.id, machine.EventChanged, "no process found")
		return nil
	}
	if err := hostfs.PrivateDir(p.Dir); err != nil { // the record is lost with the directory
		return err
	}
	// The caller's description is not known, so the digest differs from it.
	r = record{Machine: found.machine, Process: found.process, StartedAt: found.startedAt}
	r.Machine.Paths = p
	r.SerialOffset = hostfs.FileSize(p.SerialLog)
	log := m.local.log.WithValues("machine", m.id, "name", r.Machine.Name)
	log.Info("Adopting QEMU without a record", "pid", r.Process.PID)
	m.superviseFound(log, r, view{})
	return nil
}

// strays returns the machines of this data directory that run although the directory has
// neither a record nor a log of them. known are those that need not be looked for.
func (l *Local) strays(ctx context.Context, known map[string]*instance) ([]string, error) {
	sockets := map[string]bool{}
	for id := range known {
		sockets[filepath.Base(l.paths(id).Sockets)] = true
	}
	entries, err := os.ReadDir(l.options.RuntimeDir)
	if err != nil {
		return nil, fmt.Errorf("looking for machines without a record: %w", err)
	}
	var mu sync.Mutex
	var found []string
	var all sync.WaitGroup
	for _, e := range entries {
		path := filepath.Join(l.options.RuntimeDir, e.Name(), filepath.Base(l.paths("").QMP))
		if _, err := os.Lstat(path); err != nil || sockets[e.Name()] {
			continue
		}
		all.Go(func() {
			o, err := inspect(ctx, path, "")
			if err != nil {
				l.log.Error(err, "A QEMU process without a record does not answer", "socket", path)
			}
			if machine.CheckID(o.machine.ID) != nil || l.paths(o.machine.ID).QMP != path || !o.belongsTo(l.options.DataDir) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, o.machine.ID)
		})
	}
	all.Wait()
	return found, nil
}
