// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/qemu"
)

// TestLab goes a user's way through one lab.
func TestLab(t *testing.T) {
	l := newLab(t)
	l.up(t, "--samples=debian")
	l.walk(t, append([]step{{"targets were installed by network", installedByNetwork}}, atWork...))
}

// atWork are the steps through a lab whose targets are Ready, to its end.
var atWork = []step{
	{"the installed system is what was declared", asDeclared},
	{"kubectl-lab shows consoles, logs and timelines", kubectlLab},
	{"secrets stay secret", secretsStaySecret},
	{"a second up changes nothing", upTwice},
	{"bad input is told and loses nothing", badInput},
	{"a power cycle comes back from the disk", powerCycle},
	{"the manager is small at rest", managerAtRest},
	{"deleting leaves nothing", deleting},
	{"down stops everything", down},
}

var targets = []string{"target-1", "target-2"}

func installedByNetwork(t *testing.T, l *lab) {
	for _, name := range targets {
		target := l.awaitPhase(t, name, v1alpha1.TargetReady)
		var phases []string
		for _, record := range target.Status.Timeline {
			phases = append(phases, string(record.Phase))
		}
		if got := strings.Join(phases, " "); !strings.HasSuffix(got, "PXE Installing Booting Ready") {
			t.Errorf("%s went %s, want … PXE Installing Booting Ready", name, got)
		}
		if target.Status.InstalledGeneration != 1 || target.Status.Install == nil || target.Status.Install.Percent != 100 {
			t.Errorf("%s: installed generation %d, progress %+v", name, target.Status.InstalledGeneration, target.Status.Install)
		}
	}
}

func asDeclared(t *testing.T, l *lab) {
	booted := "cloud-init status --wait --format=json"
	if l.faulty {
		booted += " || test $? = 2" // which stands for warnings
	}
	for _, name := range targets {
		target := l.target(t, name)
		said := l.sshEach(t, name, "hostname", booted,
			"cat /etc/lab-role", "ip -4 -o addr show", "df -B1 --output=size / | tail -1 | tr -d ' '", "sudo sgdisk -v /dev/vda")
		hostname, status, role, addresses, size, table := said[0], said[1], said[2], said[3], said[4], said[5]
		if hostname != name {
			t.Errorf("hostname is %q, want %q", hostname, name)
		}
		if err := cloudInitDone(status, l.faulty); err != nil {
			t.Errorf("cloud-init on %s: %v\n%s", name, err, status)
		}
		if want := target.Spec.Parameters["role"]; role != want {
			t.Errorf("the user-data's file on %s says %q, want %q", name, role, want)
		}
		if !strings.Contains(addresses, target.Status.Address+"/") {
			t.Errorf("%s has not its address %s:\n%s", name, target.Status.Address, addresses)
		}
		// The root file system fills the disk but for the partitions before it.
		disk := target.Spec.Machine.Disks[0].Size.Value()
		if got, err := strconv.ParseInt(size, 10, 64); err != nil || got < disk*85/100 {
			t.Errorf("the root file system of %s has %s bytes on a disk of %d", name, size, disk)
		}
		// sgdisk says what it found and ends with 0 all the same.
		if !strings.Contains(table, "No problems found") {
			t.Errorf("the partition table of %s: %s", name, table)
		}
	}
}

// cloudInitDone returns what is wrong with a boot, of which cloud-init said status
// (as JSON): that it has not ended, errors, and warnings. A faulty lab may have
// had no server, to which reports could be posted.
func cloudInitDone(status string, faulty bool) error {
	var said struct {
		Status            string
		Errors            []string
		RecoverableErrors map[string][]string `json:"recoverable_errors"`
	}
	if err := json.Unmarshal([]byte(status), &said); err != nil {
		return err
	}
	var wrong []error
	if said.Status != "done" {
		wrong = append(wrong, fmt.Errorf("cloud-init's status is %q", said.Status))
	}
	for _, text := range said.Errors {
		wrong = append(wrong, errors.New(text))
	}
	for level, texts := range said.RecoverableErrors {
		for _, text := range texts {
			report := strings.HasPrefix(text, "Failed posting event: ") || strings.HasPrefix(text, "Multiple consecutive failures in WebHookHandler.")
			if !faulty || !report {
				wrong = append(wrong, fmt.Errorf("%s: %s", level, text))
			}
		}
	}
	return errors.Join(wrong...)
}

func TestCloudInitDone(t *testing.T) {
	const unposted = `"Failed posting event: {}. This was caused by: Read timed out.", "Multiple consecutive failures in WebHookHandler. Cancelling all queued events."`
	for name, c := range map[string]struct {
		status string
		faulty bool
		wrong  string
	}{
		"clean":               {status: `{"status": "done", "errors": [], "recoverable_errors": {}}`},
		"running":             {status: `{"status": "running"}`, wrong: `cloud-init's status is "running"`},
		"error":               {status: `{"status": "done", "errors": ["no such module"]}`, faulty: true, wrong: "no such module"},
		"unposted, no faults": {status: `{"status": "done", "recoverable_errors": {"WARNING": [` + unposted + `]}}`, wrong: "WARNING: Failed posting"},
		"unposted":            {status: `{"status": "done", "recoverable_errors": {"WARNING": [` + unposted + `]}}`, faulty: true},
		"another warning":     {status: `{"status": "done", "recoverable_errors": {"WARNING": [` + unposted + `, "bad user-data"]}}`, faulty: true, wrong: "WARNING: bad user-data"},
		"nothing":             {wrong: "unexpected end of JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			err := cloudInitDone(c.status, c.faulty)
			if c.wrong == "" {
				assert.NilError(t, err)
			} else {
				assert.ErrorContains(t, err, c.wrong)
			}
		})
	}
}

func kubectlLab(t *testing.T, l *lab) {
	for want, args := range map[string][]string{
		"Installing":        {"timeline", "target-1"},
		"pxelab: ":          {"logs", "target-1"},
		"cloud-init":        {"logs", "server/" + l.serverName(t)},
		"installed, has ph": nil,
	} {
		program := "bin/kubectl-lab"
		if args == nil {
			program, args = "bin/controlplane", []string{"kubectl", "describe", "baremetaltarget", "target-1"}
		}
		out, err := l.run(t.Context(), program, args...)
		if err != nil || !strings.Contains(strings.ToLower(out), strings.ToLower(want)) {
			t.Errorf("%s %v: %v; want %q in\n%s", program, args, err, want, out)
		}
	}
	if said := l.console(t, "target-1"); !strings.Contains(said, "target-1 login:") {
		t.Errorf("the console of target-1 said %q, want a prompt", said)
	}
	out, err := l.run(t.Context(), "bin/kubectl-lab", "ssh", "no-such-target", "--", "true")
	if err == nil || !strings.Contains(out, "no-such-target") {
		t.Errorf("ssh to an unknown target: %v\n%s", err, out)
	}
}

// console attaches to a target's serial console, presses Enter, and detaches
// when there is a prompt or the time is up. It returns what the console said.
func (l *lab) console(t *testing.T, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guestLimit)
	defer cancel()
	cmd := l.command(ctx, "bin/kubectl-lab", "console", name)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "\r"); err != nil {
		t.Error(err)
	}
	var said strings.Builder
	for buffer := make([]byte, 256); !strings.Contains(said.String(), "login:"); {
		n, err := out.Read(buffer)
		said.Write(buffer[:n])
		if err != nil {
			break
		}
	}
	if _, err := io.WriteString(in, "\x1d"); err != nil { // Ctrl-]
		t.Error(err)
	}
	if _, err := io.Copy(&said, out); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(errs.String(), "Detached from target ") {
		t.Errorf("console %s: %v\n%s", name, err, errs.String())
	}
	return said.String()
}

func (l *lab) serverName(t *testing.T) string {
	return l.target(t, "target-1").Spec.ProvisioningServerRef.Name
}

func upTwice(t *testing.T, l *lab) {
	before := l.target(t, "target-1")
	l.up(t, "--samples=debian")
	after := l.target(t, "target-1")
	if before.ResourceVersion != after.ResourceVersion {
		t.Errorf("a second up changed target-1:\n%+v\n%+v", before.Status, after.Status)
	}
}

func badInput(t *testing.T, l *lab) {
	good := l.target(t, "target-1")
	bad := &v1alpha1.BareMetalTarget{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: "bad"},
		Spec:       *good.Spec.DeepCopy(),
	}
	bad.Spec.Hostname, bad.Spec.MACAddress = "", ""
	bad.Spec.Address = v1alpha1.IPv4(good.Status.Address)
	if err := l.client.Create(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	defer l.remove(t, "bad")
	failed := l.awaitPhase(t, "bad", v1alpha1.TargetFailed)
	if !strings.Contains(failed.Status.Message, "target-1") {
		t.Errorf("the message does not name who has the address: %s", failed.Status.Message)
	}
	// The image does not fit: correcting the address shows the next mistake.
	l.update(t, "bad", func(s *v1alpha1.BareMetalTargetSpec) { s.Address = ""; s.Power = v1alpha1.PowerOff })
	l.awaitPhase(t, "bad", v1alpha1.TargetStopped)

	small := bad.DeepCopy()
	small.ObjectMeta = metav1.ObjectMeta{Namespace: l.namespace, Name: "small"}
	small.Spec.Address = ""
	small.Spec.Machine.Disks = []v1alpha1.Disk{{Size: resource.MustParse("64Mi")}}
	if err := l.client.Create(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	defer l.remove(t, "small")
	failed = l.awaitPhase(t, "small", v1alpha1.TargetFailed)
	if !strings.Contains(failed.Status.Message, "disks[0].size") {
		t.Errorf("the message does not name the disk: %s", failed.Status.Message)
	}
	if got := l.target(t, "target-1").Status.Phase; got != v1alpha1.TargetReady {
		t.Errorf("target-1 became %s through another's mistake", got)
	}
}

// powerCycle turns a target off and on. It must come back from its disk: the
// server would see a network boot.
func powerCycle(t *testing.T, l *lab) {
	before := l.target(t, "target-1")
	l.ssh(t, "target-1", "echo kept | sudo tee /root/kept; sudo sync")
	boots := strings.Count(l.serial(t, before), "iPXE")
	l.update(t, "target-1", func(s *v1alpha1.BareMetalTargetSpec) { s.Power = v1alpha1.PowerOff })
	l.awaitPhase(t, "target-1", v1alpha1.TargetStopped)
	off := l.await(t, "target-1", "off", func(o *v1alpha1.BareMetalTarget) bool { return o.Status.Power == v1alpha1.PowerOff })
	if c := meta.FindStatusCondition(off.Status.Conditions, v1alpha1.ConditionMachineRunning); c == nil || c.Message != "powered off by its guest" {
		t.Errorf("off, with the condition %+v; want it powered off by its guest", c)
	}
	l.update(t, "target-1", func(s *v1alpha1.BareMetalTargetSpec) { s.Power = v1alpha1.PowerOn })
	after := l.awaitPhase(t, "target-1", v1alpha1.TargetReady)
	if got := l.ssh(t, "target-1", "sudo cat /root/kept"); got != "kept" {
		t.Errorf("what was on the disk is gone: %q", got)
	}
	if got := l.ssh(t, "target-1", "cloud-init status --wait"); !strings.Contains(got, "status: done") {
		t.Errorf("cloud-init after a power cycle: %s", got)
	}
	if strings.Join(before.Status.SSHHostKeys, "\n") != strings.Join(after.Status.SSHHostKeys, "\n") || before.Status.Address != after.Status.Address {
		t.Errorf("keys or address changed:\n%+v\n%+v", before.Status, after.Status)
	}
	if now := strings.Count(l.serial(t, after), "iPXE"); now != boots {
		t.Errorf("iPXE ran again: %d times, was %d", now, boots)
	}
	phases := ""
	for _, record := range after.Status.Timeline {
		phases += string(record.Phase) + " "
	}
	if !strings.HasSuffix(phases, "Ready Stopped Booting Ready ") && !strings.HasSuffix(phases, "Ready Stopped Pending Booting Ready ") {
		t.Errorf("the power cycle went %s", phases)
	}
}

// serial is all that a target's console said.
func (l *lab) serial(t *testing.T, o *v1alpha1.BareMetalTarget) string {
	t.Helper()
	out, err := l.run(t.Context(), "bin/kubectl-lab", "logs", "--raw", o.Name)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (l *lab) remove(t *testing.T, name string) {
	t.Helper()
	target := l.target(t, name)
	if err := l.client.Delete(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	l.awaitGone(t, target)
}

// deletionLimit is how long anything may take to go, whatever it does.
const deletionLimit = time.Minute

func (l *lab) awaitGone(t *testing.T, o client.Object) {
	t.Helper()
	started, deadline := time.Now(), newDeadline(deletionLimit)
	for {
		err := l.client.Get(t.Context(), client.ObjectKeyFromObject(o), o)
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Logf("%s was gone after %.1f s", o.GetName(), time.Since(started).Seconds())
			return
		}
		deadline.pause(t, fmt.Sprintf("%s is still there after %s", o.GetName(), deletionLimit))
	}
}

// machineFiles are where a machine's files are, as this host sees them.
func (l *lab) machineFiles(t *testing.T, id string) qemu.Paths {
	t.Helper()
	root := "/"
	if l.inCluster {
		root = l.podRoot(t)
	}
	return qemu.NewPaths(filepath.Join(root, l.data), filepath.Join(root, l.runtime), id)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// nothingLeft checks that a machine is gone from this host.
func (l *lab) nothingLeft(t *testing.T, id string) {
	t.Helper()
	files := l.machineFiles(t, id)
	for _, dir := range []string{files.Dir, files.Sockets} {
		if exists(dir) {
			t.Errorf("%s is still there", dir)
		}
	}
	if pids := l.processes(t, id); len(pids) > 0 {
		t.Errorf("processes of machine %s live: %v", id, pids)
	}
}

// deleting removes a target and checks that nothing is left of it on the host
// and with the server.
func deleting(t *testing.T, l *lab) {
	target := l.target(t, "target-2")
	server := l.serverName(t)
	if files := l.machineFiles(t, string(target.UID)); !exists(files.Dir) || !exists(files.Sockets) {
		t.Errorf("the machine has no files in %s and %s", files.Dir, files.Sockets)
	}
	if !slices.Contains(l.leased(t, server), target.Status.Address) {
		t.Errorf("%s is not among the leases", target.Status.Address)
	}
	l.remove(t, "target-2")
	l.nothingLeft(t, string(target.UID))
	deadline := newDeadline(deletionLimit)
	for slices.Contains(l.leased(t, server), target.Status.Address) {
		deadline.pause(t, "the deleted target's lease is still there")
	}
}

// leased are the addresses that a server has given.
func (l *lab) leased(t *testing.T, server string) []string {
	t.Helper()
	o := &v1alpha1.ProvisioningServer{}
	if err := l.client.Get(t.Context(), client.ObjectKey{Namespace: l.namespace, Name: server}, o); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, lease := range o.Status.Leases {
		out = append(out, lease.Address)
	}
	return out
}

func down(t *testing.T, l *lab) {
	if out, err := l.run(t.Context(), "bin/lab", "down"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if pids := l.processes(t, l.data); len(pids) > 0 {
		t.Errorf("processes of the lab live: %v", pids)
	}
}
