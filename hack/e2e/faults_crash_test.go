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

// hostCrash ends everything at once and gives the PIDs on record to strangers,
// as a host that starts anew does. Then the lab is brought up.
func hostCrash(x *trial) {
	targets := []string{first, second}
	var before []evidence
	var marks []string
	for _, name := range targets {
		x.ready(name)
		before, marks = append(before, x.evidence(name)), append(marks, x.leaveMark(name))
	}
	leases, objects := x.leases(), x.objects(x)
	records := x.records()
	var all []process.Identity
	for _, file := range records {
		all = append(all, x.readIdentity(file))
	}
	x.strike()
	x.kill(all...)
	strangers := x.plant(records)

	x.lab("up", "--samples=debian")
	for _, id := range strangers {
		if !process.Alive(id) {
			x.Errorf("the stranger's process %d was ended", id.PID)
		}
	}
	var last time.Time
	for i, name := range targets {
		_, at := x.awaitTarget(name, "Ready", x.struck, func(o *v1alpha1.BareMetalTarget) bool {
			last := o.Status.Timeline[len(o.Status.Timeline)-1]
			return o.Status.Phase == v1alpha1.TargetReady && last.StartedAt.After(x.struck)
		})
		if at.After(last) {
			last = at
		}
		x.neverIn(name, v1alpha1.TargetPXE, v1alpha1.TargetInstalling)
		x.sameInstallation(before[i])
		x.findMark(name, marks[i])
	}
	x.recovered(last)
	x.sameLeases(leases)
	x.sameObjects(objects)
}

// records are the files in which the lab keeps whom it started.
func (x *trial) records() []string {
	x.Helper()
	found, err := filepath.Glob(filepath.Join(x.data, "machines", "*", "qemu.json"))
	if err != nil {
		x.Fatal(err)
	}
	return append(found, x.recordOf(manager), x.recordOf(controlPlane))
}

// identityIn is where a record has its process: a machine's in a field, a
// program's at its top.
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
		x.Fatalf("%s: %v", file, err)
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
		x.Fatalf("%s: %v", file, err)
	}
	return id
}

// plant puts a stranger's process behind every record: with the PID of a
// process that has started since, or, in every second, with its start time as
// well, in an earlier boot of the host.
func (x *trial) plant(records []string) []process.Identity {
	x.Helper()
	var out []process.Identity
	for i, file := range records {
		stranger := exec.Command("sleep", "86400")
		if err := stranger.Start(); err != nil {
			x.Fatal(err)
		}
		x.Cleanup(func() { _ = stranger.Process.Kill(); _ = stranger.Wait() })
		id, err := process.Find(stranger.Process.Pid)
		if err != nil {
			x.Fatal(err)
		}
		out = append(out, id)
		record := x.readRecord(file)
		planted := identityIn(record)
		planted["pid"] = id.PID
		if i%2 == 1 {
			planted["start"], planted["boot"] = id.Start, uuid.NewString()
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
