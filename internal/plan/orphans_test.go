// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

func TestOrphans(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const cluster = "this"
	target := func(id string, retention v1alpha1.DiskRetention) HostMachine {
		return HostMachine{ID: id, Kind: KindTarget, Namespace: "default", Name: id, Retention: retention, Cluster: cluster, HasDisks: true}
	}
	server := HostMachine{ID: "server", Kind: KindServer, Namespace: "default", Name: "lab", Cluster: cluster, HasDisks: true}
	gone, kept := target("gone", v1alpha1.RetentionDelete), target("kept", v1alpha1.RetentionDelete)
	since := func(age time.Duration, all ...string) map[string]Orphan {
		known := map[string]Orphan{}
		for _, id := range all {
			known[id] = Orphan{HostMachine: HostMachine{ID: id}, Since: now.Add(-age)}
		}
		return known
	}
	objects := func(all ...string) map[string]bool {
		out := map[string]bool{}
		for _, id := range all {
			out[id] = true
		}
		return out
	}
	unrecorded := HostMachine{ID: "gone", HasDisks: true}
	elsewhere := target("elsewhere", v1alpha1.RetentionDelete)
	elsewhere.Namespace = "other"
	foreign := gone
	foreign.Cluster = "other"
	damaged := gone
	damaged.Unknown = true
	for _, c := range []struct {
		name string
		in   OrphanInput
		// want has one line for each orphan: ID, "remove" or "wait" or what holds it,
		// and whether its data is kept.
		want     []string
		disabled bool
	}{
		{
			name: "machines with an object are none",
			in:   OrphanInput{Machines: []HostMachine{server, kept}, Objects: objects("server", "kept", "not started")},
		},
		{
			name: "a machine without an object waits for the grace period",
			in:   OrphanInput{Machines: []HostMachine{kept, gone}, Objects: objects("kept")},
			want: []string{"gone wait"},
		},
		{
			name: "the grace period starts when it was first seen",
			in:   OrphanInput{Machines: []HostMachine{kept, gone}, Objects: objects("kept"), Known: since(time.Hour-time.Second, "gone")},
			want: []string{"gone wait"},
		},
		{
			name: "it is removed after the grace period",
			in:   OrphanInput{Machines: []HostMachine{kept, gone}, Objects: objects("kept"), Known: since(time.Hour, "gone")},
			want: []string{"gone remove"},
		},
		{
			name: "machines of namespaces that were not read are left alone",
			in: OrphanInput{
				Machines:   []HostMachine{kept, elsewhere, elsewhere, elsewhere, unrecorded},
				Objects:    objects("kept"),
				Namespaces: []string{"default"},
				Known:      since(9*time.Hour, "gone"),
			},
			want: []string{"gone its namespace is not retain"},
		},
		{
			name: "an object that returns ends it",
			in:   OrphanInput{Machines: []HostMachine{kept, gone}, Objects: objects("kept", "gone"), Known: since(time.Hour, "gone")},
		},
		{
			name: "a retained disk is kept",
			in: OrphanInput{
				Machines: []HostMachine{kept, target("gone", v1alpha1.RetentionRetain)}, Objects: objects("kept"), Known: since(time.Hour, "gone"),
			},
			want: []string{"gone remove retain"},
		},
		{
			name: "without a record the disk is kept",
			in:   OrphanInput{Machines: []HostMachine{kept, unrecorded}, Objects: objects("kept"), Known: since(time.Hour, "gone")},
			want: []string{"gone remove retain"},
		},
		{
			name: "a target without a recorded retention keeps its disk",
			in:   OrphanInput{Machines: []HostMachine{kept, target("gone", "")}, Objects: objects("kept"), Known: since(time.Hour, "gone")},
			want: []string{"gone remove retain"},
		},
		{
			name: "without disks there is no data to keep",
			in: OrphanInput{
				Machines: []HostMachine{kept, {ID: "gone"}}, Objects: objects("kept"), Known: since(time.Hour, "gone"),
			},
			want: []string{"gone remove"},
		},
		{
			name: "a server has no data to keep",
			in:   OrphanInput{Machines: []HostMachine{kept, server}, Objects: objects("kept"), Known: since(time.Hour, "server")},
			want: []string{"server remove"},
		},
		{
			name: "an empty cluster removes nothing",
			in:   OrphanInput{Machines: []HostMachine{gone, server}, Known: since(9*time.Hour, "gone", "server")},
			want: []string{"gone the cluster has no retain", "server the cluster has no retain"},
		},
		{
			name: "an empty cluster does not remove a single machine",
			in:   OrphanInput{Machines: []HostMachine{gone}, Known: since(9*time.Hour, "gone")},
			want: []string{"gone the cluster has no retain"},
		},
		{
			name: "most machines without an object are not removed",
			in:   OrphanInput{Machines: []HostMachine{gone, server, kept}, Objects: objects("kept"), Known: since(9*time.Hour, "gone", "server")},
			want: []string{"gone 2 of 3 retain", "server 2 of 3 retain"},
		},
		{
			name: "half of the machines are plausible",
			in: OrphanInput{
				Machines: []HostMachine{gone, server, kept, target("kept2", "")}, Objects: objects("kept", "kept2"),
				Known: since(9*time.Hour, "gone", "server"),
			},
			want: []string{"gone remove", "server remove"},
		},
		{
			name: "one machine without an object is plausible in the smallest lab",
			in:   OrphanInput{Machines: []HostMachine{gone}, Objects: objects("not started"), Known: since(9*time.Hour, "gone")},
			want: []string{"gone remove"},
		},
		{
			name: "data of what was once implausible stays kept",
			in: OrphanInput{
				Machines: []HostMachine{kept, gone}, Objects: objects("kept"),
				Known: map[string]Orphan{"gone": {Since: now.Add(-time.Hour), Retain: true}},
			},
			want: []string{"gone remove retain"},
		},
		{
			name: "the machine of another cluster is not removed",
			in:   OrphanInput{Machines: []HostMachine{kept, foreign}, Objects: objects("kept"), Known: since(9*time.Hour, "gone")},
			want: []string{"gone its object was in another cluster"},
		},
		{
			name: "a machine whose process is unknown is not removed",
			in:   OrphanInput{Machines: []HostMachine{kept, damaged}, Objects: objects("kept"), Known: since(9*time.Hour, "gone")},
			want: []string{"gone it is not known"},
		},
		{
			name: "without a grace period nothing is removed",
			in:   OrphanInput{Machines: []HostMachine{kept, gone}, Objects: objects("kept"), Known: since(9*time.Hour, "gone")},
			want: []string{"gone the removal of machines without an object is disabled"}, disabled: true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.Now = now
			c.in.Cluster = cluster
			if !c.disabled {
				c.in.Grace = time.Hour
			}
			orphans := Orphans(c.in)
			var got []string
			for i, o := range orphans {
				line := o.ID + " wait"
				if o.Held != "" {
					line = o.ID + " " + o.Held
					if i < len(c.want) { // the beginning is enough
						wanted := strings.TrimSuffix(c.want[i], " retain")
						line = line[:min(len(line), len(wanted))]
					}
				} else if o.Remove {
					line = o.ID + " remove"
				}
				if o.Held == "" && !o.RemoveAt.Equal(o.Since.Add(time.Hour)) {
					t.Errorf("%s: got removed at %s, want an hour after %s", o.ID, o.RemoveAt, o.Since)
				}
				if o.Retain {
					line += " retain"
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("orphans (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever happens to a cluster of any size, no single reading of it removes machines
// that it has not shown as orphans for the grace period.
func TestOrphansAreNeverRemovedAtFirstSight(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var machines []HostMachine
	for i := range 10 {
		machines = append(machines, HostMachine{ID: fmt.Sprint(i), Kind: KindTarget, Retention: v1alpha1.RetentionDelete, HasDisks: true})
	}
	for left := range len(machines) + 1 {
		objects := map[string]bool{}
		for _, m := range machines[:left] {
			objects[m.ID] = true
		}
		for _, o := range Orphans(OrphanInput{Machines: machines, Objects: objects, Now: now, Grace: time.Hour}) {
			if o.Remove {
				t.Errorf("%d of %d objects left: machine %s is removed at first sight", left, len(machines), o.ID)
			}
		}
	}
}
