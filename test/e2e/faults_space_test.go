// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// These tests use a small file system that only the lab sees: a tmpfs in a mount
// namespace in which "lab up" and its children run. It requires root or user
// namespaces, and disappears with the last of the processes.

// upInside runs "lab up" in a mount namespace in which dir is a separate file
// system of the given size.
func (l *lab) upInside(ctx context.Context, dir string, megabytes int) (string, error) {
	const script = `set -e; mkdir -p "$1"; mount -t tmpfs -o size="$2"m,mode=0700 pxelab "$1"; exec "$3" up --samples=none`
	args := append(unshare(), "sh", "-c", script, "sh", dir, fmt.Sprint(megabytes), filepath.Join(l.root, "bin", "lab"))
	return l.output(exec.CommandContext(ctx, "unshare", args...))
}

func unshare() []string {
	if os.Geteuid() == 0 {
		return []string{"--mount"}
	}
	return []string{"--map-root-user", "--mount"}
}

// inside runs a command in the mount namespace of a process.
func (l *lab) inside(ctx context.Context, pid int, command ...string) (string, error) {
	args := []string{"--target", fmt.Sprint(pid), "--mount"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--preserve-credentials")
	}
	return l.output(exec.CommandContext(ctx, "nsenter", append(args, command...)...))
}

// resize changes the size of the file system.
func (x *trial) resize(l *lab, dir string, megabytes int) {
	x.Helper()
	pid := l.program(x, manager).PID
	out, err := l.inside(x.Context(), pid, "mount", "-o", fmt.Sprintf("remount,size=%dm", megabytes), dir)
	if err != nil {
		x.Fatalf("resizing %s: %v\n%s", dir, err, out)
	}
}

// fullWhileDownloading makes a small lab without machines download more than matches
// on its file system, and then frees space.
func fullWhileDownloading(x *trial) {
	small := newLab(x)
	artifacts := filepath.Join(small.data, "artifacts")
	if out, err := small.upInside(x.Context(), artifacts, 128); err != nil {
		x.Fatalf("starting a lab in a separate file system, which requires root or user namespaces: %v\n%s", err, out)
	}
	small.connect(x)
	inner := &trial{T: x.T, faultLab: &faultLab{lab: small, w: small.watch(x)}}

	large := bytes.Repeat(noise(), 7)
	server := hostile{
		"/length": honest(large, ""),
		"/no-length": func(w http.ResponseWriter, _ *http.Request, _ int64) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush() // sends the header without a length
			_, _ = w.Write(large)
		},
	}
	http := httptest.NewServer(server.count())
	defer http.Close()
	names := []string{"length", "no-length"}
	x.markFault()
	for _, name := range names {
		inner.profile(name, http.URL+"/"+name, large, v1alpha1.ImageRaw)
	}
	for _, name := range names {
		p, _, err := until(x.Context(), inner.w, "profile/"+name, time.Time{}, func(p *v1alpha1.BootProfile) (bool, error) {
			if meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady) {
				return false, fmt.Errorf("the profile is Ready")
			}
			c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionArtifactsReady)
			return c != nil && c.Reason == v1alpha1.ReasonNoSpace, nil
		})
		if err != nil {
			x.Fatalf("waiting for profile %s to report NoSpace: %v; last status %+v", name, err, p.Status)
		}
		x.checkSpaceMessage(meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionArtifactsReady).Message, artifacts)
	}
	x.markFaultEnd()
	x.resize(small, artifacts, 1024)
	for _, name := range names {
		inner.imageOf(name)
	}
	x.recovered(time.Now())
}

var bytesMissing = regexp.MustCompile(`free \d+ bytes|\d+ (more )?bytes (are|is) (missing|needed)`)

// checkSpaceMessage checks that a message contains the path and the missing bytes.
func (x *trial) checkSpaceMessage(message, path string) {
	x.Helper()
	if !strings.Contains(message, path) || !bytesMissing.MatchString(message) {
		x.Errorf("got message %[2]q, want %[1]s and the missing bytes in it", path, message)
	}
}

// fullWhileInstalling installs a target whose disk is on a file system that is too
// small, and then frees space.
func fullWhileInstalling(x *trial) {
	x.ready(first)
	watched := x.bystanders()
	const name = "target-in-small-space"
	target := sample(x.faultLab, x, first, &v1alpha1.BareMetalTarget{})
	target.Name, target.Spec.Power = name, v1alpha1.PowerOff
	x.ensure(x, target)
	target, _ = x.awaitTarget(name, "Stopped", time.Time{}, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Status.Phase == v1alpha1.TargetStopped
	})
	dir := filepath.Join(x.data, "machines", string(target.UID))
	x.kill(x.program(x, manager))
	if out, err := x.upInside(x.Context(), dir, 128); err != nil {
		x.Fatalf("starting the lab with a separate file system, which requires root or user namespaces: %v\n%s", err, out)
	}
	managerProcess := x.program(x, manager)
	x.view = fmt.Sprintf("/proc/%d/root", managerProcess.PID)
	defer func() { x.view = "" }()
	x.markFault()
	x.update(x, name, func(s *v1alpha1.BareMetalTargetSpec) { s.Power = v1alpha1.PowerOn })
	o, _ := x.awaitTarget(name, "short of space", time.Time{}, func(o *v1alpha1.BareMetalTarget) bool {
		c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionProgressing)
		return c != nil && c.Reason == v1alpha1.ReasonNoSpace
	})
	x.checkSpaceMessage(o.Status.Message, dir)
	before := x.evidence(name)
	x.markFaultEnd()
	x.resize(x.faultLab.lab, dir, 3072)
	_, at := x.awaitTarget(name, "installed", x.faultEndAt, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Status.InstalledGeneration == o.Spec.InstallGeneration
	})
	x.recovered(at)
	x.sameMachine(before)
	x.sameInstallation(before)

	// The file system is a mount point, which cannot be removed.
	off := time.Now()
	x.update(x, name, func(s *v1alpha1.BareMetalTargetSpec) { s.Power = v1alpha1.PowerOff })
	x.kill(before.machine.Process) // it is booting, and would ignore the power button for a long time
	x.awaitTarget(name, "Stopped", off, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Status.Phase == v1alpha1.TargetStopped && o.Status.Power == v1alpha1.PowerOff
	})
	// The manager may be reading a record in it, and the kernel may be closing the
	// killed process's files.
	for free := newDeadline(deletionLimit); ; {
		out, err := x.inside(x.Context(), managerProcess.PID, "umount", dir)
		if err == nil {
			break
		}
		free.pause(x, fmt.Sprintf("unmounting %s of a stopped machine: %v\n%s", dir, err, out))
	}
	x.remove(x.T, name)
	x.kill(managerProcess)
	x.view = ""
	x.startPrograms()
	x.untouched(watched...)
}
