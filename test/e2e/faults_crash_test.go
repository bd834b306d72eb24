// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/process"
)

// hostCrash kills all processes at once and makes other processes the owners of
// the recorded PIDs, as a restart of the host can. Then it starts the lab.
func hostCrash(x *trial) {
	targets := []string{first, second, calm}
	var before []evidence
	marks := map[string]string{}
	for _, name := range targets {
		x.ready(name)
		before = append(before, x.evidence(name))
		if simulatedTarget(name) == nil {
			marks[name] = x.leaveMark(name)
		}
	}
	leases, objects := x.leases(), x.objects(x)
	records := x.records()
	var all []process.Identity
	for _, file := range records {
		all = append(all, x.readIdentity(file))
	}
	x.markFault()
	x.kill(all...)
	foreign := x.forgeRecords(records)

	x.lab("up", "--samples=debian")
	for _, id := range foreign {
		if !process.Alive(id) {
			x.Errorf("foreign process %d was stopped", id.PID)
		}
	}
	var last time.Time
	for i, name := range targets {
		_, at := x.awaitTarget(name, "Ready", x.faultAt, func(o *v1alpha1.BareMetalTarget) bool {
			last := o.Status.Timeline[len(o.Status.Timeline)-1]
			return o.Status.Phase == v1alpha1.TargetReady && last.StartedAt.After(x.faultAt)
		})
		if at.After(last) {
			last = at
		}
		x.neverIn(name, v1alpha1.TargetPXE, v1alpha1.TargetInstalling)
		x.sameInstallation(before[i])
		if mark := marks[name]; mark != "" {
			x.findMark(name, mark)
		}
	}
	x.recovered(last)
	x.sameLeases(leases)
	x.sameObjects(objects)
}

// records returns the files in which the lab records the processes it started.
func (x *trial) records() []string {
	x.Helper()
	found, err := filepath.Glob(filepath.Join(x.data, "machines", "*", "qemu.json"))
	if err != nil {
		x.Fatal(err)
	}
	return append(found, x.recordOf(manager), x.recordOf(controlPlane), x.recordOf(simulator))
}

// identityIn returns the object with the process identity in a record: a field of
// a machine's record, or a program's whole record.
func identityIn(record map[string]any) map[string]any {
	if nested, ok := record["process"].(map[string]any); ok {
		return nested
	}
	return record
}

func (x *trial) readRecord(file string) map[string]any {
	x.Helper()
	raw, err := os.ReadFile(file)
	record := map[string]any{}
	if err == nil {
		err = json.Unmarshal(raw, &record)
	}
	if err != nil {
		x.Fatalf("reading %s: %v", file, err)
	}
	return record
}

func (x *trial) readIdentity(file string) process.Identity {
	x.Helper()
	raw, err := json.Marshal(identityIn(x.readRecord(file)))
	var id process.Identity
	if err == nil {
		err = json.Unmarshal(raw, &id)
	}
	if err != nil {
		x.Fatalf("parsing %s: %v", file, err)
	}
	return id
}

// forgeRecords puts the PID of a new, foreign process into every record. Every second
// record also gets the process's start time, but with another boot ID.
func (x *trial) forgeRecords(records []string) []process.Identity {
	x.Helper()
	var out []process.Identity
	for i, file := range records {
		sleeper := exec.Command("sleep", "86400")
		if err := sleeper.Start(); err != nil {
			x.Fatal(err)
		}
		x.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
		id, err := process.Find(sleeper.Process.Pid)
		if err != nil {
			x.Fatal(err)
		}
		out = append(out, id)
		record := x.readRecord(file)
		forged := identityIn(record)
		forged["pid"] = id.PID
		if i%2 == 1 {
			forged["start"], forged["boot"] = id.Start, uuid.NewString()
		}
		raw, err := json.Marshal(record)
		if err == nil {
			err = os.WriteFile(file, raw, 0o600)
		}
		if err != nil {
			x.Fatal(err)
		}
	}
	return out
}
