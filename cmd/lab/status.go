// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/ownership"
)

// statusTimeout is how long the cluster may take to answer.
const statusTimeout = 10 * time.Second

// status prints the state of the lab's processes and machines. It changes
// nothing.
func (l *lab) status(ctx context.Context) error {
	if _, err := os.Stat(l.dirs.Records()); err != nil {
		fmt.Println("there is no lab; create one with \"make up\"")
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tPROCESS\tUP\tLOG")
	for _, name := range []string{controlPlane, manager} {
		r, err := l.running(name)
		if err != nil {
			return err
		}
		if r == nil {
			fmt.Fprintf(w, "%s\tstopped\t\t\t\n", name)
			continue
		}
		fmt.Fprintf(w, "%s\trunning\t%d\t%s\t%s\n", name, r.PID, time.Since(r.StartedAt).Round(time.Second), r.Log)
	}
	lost, err := l.statusOfMachines(ctx, w)
	if err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := l.printCapacity(ctx, os.Stdout); err != nil {
		return err
	}
	printLost(os.Stdout, lost)
	return l.printRetained(os.Stdout)
}

// statusOfMachines prints the state of the machines: from the cluster while a
// manager runs, which then owns the machines, else from the host. It returns the
// machines that have no object; they are unknown while no manager runs.
func (l *lab) statusOfMachines(ctx context.Context, w io.Writer) ([]ownership.MachineDir, error) {
	if r, err := l.running(manager); err != nil {
		return nil, err
	} else if r != nil {
		c, err := l.connect(ctx, l.kubeconfig(), nil, statusTimeout)
		if err != nil {
			return nil, err
		}
		// Directories first: one that is created meanwhile has an object.
		dirs, err := ownership.ListMachines(l.dirs.Data)
		if err != nil {
			return nil, err
		}
		owners, err := printObjects(ctx, w, c.client)
		return slices.DeleteFunc(dirs, func(m ownership.MachineDir) bool { return owners[m.ID] }), err
	}
	return nil, l.withMachines(func(machines labMachines) error {
		states, err := machines.List(ctx)
		if err != nil {
			return fmt.Errorf("listing the lab's machines: %w", err)
		}
		for _, s := range states {
			pid, up := "", ""
			if s.Phase.Alive() {
				pid, up = fmt.Sprint(s.PID), time.Since(s.StartedAt).Round(time.Second).String()
			}
			fmt.Fprintf(w, "machine %s\t%s\t%s\t%s\t%s\n", s.Name, s.Phase, pid, up, s.Paths.SerialLog)
		}
		return nil
	})
}

// printObjects prints the state of all servers and targets, and returns their UIDs.
func printObjects(ctx context.Context, w io.Writer, c client.Client) (map[string]bool, error) {
	owners := map[string]bool{}
	var servers v1alpha1.ProvisioningServerList
	var targets v1alpha1.BareMetalTargetList
	if err := errors.Join(c.List(ctx, &servers), c.List(ctx, &targets)); err != nil {
		return nil, fmt.Errorf("listing the lab's machines: %w", err)
	}
	for i := range servers.Items {
		s := &servers.Items[i]
		owners[string(s.UID)] = true
		fmt.Fprintf(w, "server %s\t%s\t\t\t%s\n", s.Name, serverState(s).state, s.Status.Consoles.SerialLog)
	}
	for i := range targets.Items {
		t := &targets.Items[i]
		owners[string(t.UID)] = true
		fmt.Fprintf(w, "target %s\t%s\t\t\t%s\n", t.Name, targetState(t).state, t.Status.Consoles.SerialLog)
	}
	return owners, nil
}

// shownWaiting is how many machines that wait are listed.
const shownWaiting = 20

// printCapacity prints what the machines use of the host, and the queue of those that
// wait. Without a manager on this host, as when the manager is in a cluster, it prints
// nothing.
func (l *lab) printCapacity(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	capacity, err := access.NewSocketClient(l.dirs.ManagerSocket()).Capacity(ctx)
	if errors.Is(err, access.ErrNoManager) {
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	return capacity.Print(w, shownWaiting)
}

// printLost prints the machines that have no object.
func printLost(w io.Writer, lost []ownership.MachineDir) {
	if len(lost) == 0 {
		return
	}
	fmt.Fprintln(w, "\nmachines without an object:")
	for _, m := range lost {
		name := "owner not recorded"
		if m.Owner.Name != "" {
			name = m.Owner.Kind + " " + m.Owner.Namespace + "/" + m.Owner.Name
		}
		fmt.Fprintf(w, "  %s (%s)\n", m.Path, name)
	}
	fmt.Fprintln(w, "The manager removes each after --orphan-grace unless its log and Events state why not.")
	fmt.Fprintln(w, "To remove one now, run \"make down\", delete its directory or move it elsewhere to keep its disks, and run \"make up\".")
}

// printRetained prints the disks that were retained. Nothing deletes them.
func (l *lab) printRetained(w io.Writer) error {
	parent := filepath.Join(l.dirs.Data, "retained")
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing retained disks: %w", err)
	}
	fmt.Fprintln(w, "\nretained disks, which stay until you delete them:")
	for _, e := range entries {
		path := filepath.Join(parent, e.Name())
		size, err := diskSpace(path)
		if err != nil {
			return fmt.Errorf("listing retained disks: %w", err)
		}
		fmt.Fprintf(w, "  %s (%s)%s\n", path, resource.NewQuantity(size>>20<<20, resource.BinarySI), adoptableAs(path))
	}
	return nil
}

// adoptableAs describes the target that had retained disks, "" if it is not recorded.
func adoptableAs(dir string) string {
	owner, err := ownership.LoadMachine(dir)
	if err != nil || owner.Disks == "" {
		return ""
	}
	return fmt.Sprintf(", adopted by a target in namespace %s with disks %s and source.retained %s", owner.Namespace, owner.Disks, owner.UID)
}

// diskSpace returns the disk space in bytes of the files below a directory.
func diskSpace(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			bytes += hostfs.AllocatedBytes(info)
		}
		return err
	})
	return bytes, err
}
