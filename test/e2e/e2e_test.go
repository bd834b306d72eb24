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
	"sigs.k8s.io/yaml"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

// TestLab runs a user's steps in one lab, from its creation to its end.
func TestLab(t *testing.T) {
	l := newLab(t)
	l.up(t, "--samples=debian")
	l.runSteps(t, slices.Concat([]step{{"targets are installed by network", installedByNetwork}}, lifecycleSteps, resumeSteps))
}

// lifecycleSteps lists the steps for a lab whose targets are Ready, to its end.
var lifecycleSteps = []step{
	{"installed system matches the spec", matchesSpec},
	{"kubectl-lab shows consoles, logs and timelines", kubectlLab},
	{"secrets stay secret", secretsStaySecret},
	{"hostile target reaches nothing but its lab", hostileTarget},
	{"second up changes nothing", upTwice},
	{"invalid input is reported and harmless", badInput},
	{"power cycle boots from the disk", powerCycle},
	{"idle manager uses few resources", managerAtRest},
	{"deleting a target leaves nothing behind", deleting},
	{"down stops everything", down},
}

// resumeSteps lists the steps for a lab that was stopped. They take as long as the boot of
// the server and of a target.
var resumeSteps = []step{
	{"up after down waits until machines are Ready", upAfterDown},
	{"down stops everything again", down},
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
			t.Errorf("%s: got phases %s, want them to end with PXE Installing Booting Ready", name, got)
		}
		if target.Status.InstalledGeneration != 1 || target.Status.Install == nil || target.Status.Install.Percent != 100 {
			t.Errorf("%s: got installed generation %d, progress %+v, want generation 1 at 100 %%",
				name, target.Status.InstalledGeneration, target.Status.Install)
		}
	}
}

func matchesSpec(t *testing.T, l *lab) {
	booted := "cloud-init status --wait --format=json"
	if l.faulty {
		booted += " || test $? = 2" // 2 means warnings
	}
	for _, name := range targets {
		target := l.target(t, name)
		outputs := l.sshEach(t, name, "hostname", booted,
			"cat /etc/lab-role", "ip -4 -o addr show", "df -B1 --output=size / | tail -1 | tr -d ' '", "sudo sgdisk -v /dev/vda", askNames(target), askTime)
		hostname, status := outputs[0], outputs[1]
		role, addresses := outputs[2], outputs[3]
		size, table := outputs[4], outputs[5]
		if hostname != name {
			t.Errorf("got hostname %q, want %q", hostname, name)
		}
		if err := cloudInitDone(status, l.faulty); err != nil {
			t.Errorf("cloud-init on %s: %v\n%s", name, err, status)
		}
		if want := target.Spec.Parameters["role"]; role != want {
			t.Errorf("got %[2]q in the user-data's file on %[1]s, want %[3]q", name, role, want)
		}
		if !strings.Contains(addresses, target.BootNICStatus().Address()+"/") {
			t.Errorf("%s: want address %s, got:\n%s", name, target.BootNICStatus().Address(), addresses)
		}
		// The root file system uses all of the disk after the other partitions.
		disk := target.Spec.Machine.Disks[0].Size.Value()
		if got, err := strconv.ParseInt(size, 10, 64); err != nil || got < disk*85/100 {
			t.Errorf("%s: got a root file system of %s bytes, want at least 85 %% of the disk of %d bytes", name, size, disk)
		}
		l.knowsNames(t, target, outputs[6])
		if seconds, err := strconv.Atoi(outputs[7]); err != nil || max(seconds, -seconds) > 60 {
			t.Errorf("%s: the server's clock is ahead by %q seconds, want at most 60", name, outputs[7])
		}
		// sgdisk exits with status 0 even if it finds problems.
		if !strings.Contains(table, "No problems found") {
			t.Errorf("partition table of %s: got %s, want no problems", name, table)
		}
	}
}

// askNames asks for the names of a target's server and of the other targets.
func askNames(target *v1alpha1.BareMetalTarget) string {
	command := "getent hosts " + target.Spec.ProvisioningServerRef.Name + ".lab.internal"
	for _, other := range targets {
		command += " && getent hosts " + other + ".lab.internal"
	}
	return command
}

// askTime prints by how many seconds the clock of the NTP server is ahead.
const askTime = `server=$(ip -4 route show default | cut -d ' ' -f 3) python3 -c '
import os, socket, struct, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
for attempt in range(6):
    s.sendto(bytes([0x23]) + bytes(47), (os.environ["server"], 123))
    try:
        answer = s.recv(512)
        break
    except TimeoutError:
        pass
print(struct.unpack("!I", answer[40:44])[0] - 2208988800 - int(time.time()))'`

// knowsNames checks the output of askNames.
func (l *lab) knowsNames(t *testing.T, target *v1alpha1.BareMetalTarget, output string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if len(lines) != len(targets)+1 {
		t.Errorf("names that %s knows: got these, want those of the server and %d targets:\n%s", target.Name, len(targets), output)
		return
	}
	for i, other := range targets {
		if got, want := strings.Fields(lines[i+1])[0], l.target(t, other).BootNICStatus().Address(); got != want && other != target.Name {
			t.Errorf("%s: the address of %s is %s, want %s", target.Name, other, got, want)
		}
	}
}

// cloudInitDone returns the problems in cloud-init's status (JSON): an unfinished
// run, errors and warnings. In a faulty lab, warnings about reports that could not
// be posted are ignored.
func cloudInitDone(status string, faulty bool) error {
	var result struct {
		Status            string
		Errors            []string
		RecoverableErrors map[string][]string `json:"recoverable_errors"`
	}
	if err := json.Unmarshal([]byte(status), &result); err != nil {
		return err
	}
	var wrong []error
	if result.Status != "done" {
		wrong = append(wrong, fmt.Errorf("cloud-init's status is %q", result.Status))
	}
	for _, text := range result.Errors {
		wrong = append(wrong, errors.New(text))
	}
	for level, texts := range result.RecoverableErrors {
		for _, text := range texts {
			report := strings.HasPrefix(text, "Failed posting event: ") ||
				strings.HasPrefix(text, "Multiple consecutive failures in WebHookHandler.")
			if !faulty || !report {
				wrong = append(wrong, fmt.Errorf("%s: %s", level, text))
			}
		}
	}
	return errors.Join(wrong...)
}

func TestCloudInitDone(t *testing.T) {
	const unposted = `"Failed posting event: {}. This was caused by: Read timed out.", ` +
		`"Multiple consecutive failures in WebHookHandler. Cancelling all queued events."`
	warnings := func(texts string) string {
		return `{"status": "done", "recoverable_errors": {"WARNING": [` + texts + `]}}`
	}
	for name, c := range map[string]struct {
		status string
		faulty bool
		wrong  string
	}{
		"clean":               {status: `{"status": "done", "errors": [], "recoverable_errors": {}}`},
		"running":             {status: `{"status": "running"}`, wrong: `cloud-init's status is "running"`},
		"error":               {status: `{"status": "done", "errors": ["no such module"]}`, faulty: true, wrong: "no such module"},
		"unposted, no faults": {status: warnings(unposted), wrong: "WARNING: Failed posting"},
		"unposted":            {status: warnings(unposted), faulty: true},
		"another warning":     {status: warnings(unposted + `, "bad user-data"`), faulty: true, wrong: "WARNING: bad user-data"},
		"no output":           {wrong: "unexpected end of JSON"},
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
			t.Errorf("%s %v: got error %v, want %q in the output:\n%s", program, args, err, want, out)
		}
	}
	if got := l.console(t, "target-1"); !strings.Contains(got, "target-1 login:") {
		t.Errorf("console of target-1: got %q, want a login prompt", got)
	}
	out, err := l.run(t.Context(), "bin/kubectl-lab", "ssh", "no-such-target", "--", "true")
	if err == nil || !strings.Contains(out, "no-such-target") {
		t.Errorf("ssh to an unknown target: got error %v, want one with the target's name:\n%s", err, out)
	}
}

// console attaches to a target's serial console, presses Enter, and detaches at
// the prompt or after a timeout. It returns the console's output.
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
	var output strings.Builder
	for buffer := make([]byte, 256); !strings.Contains(output.String(), "login:"); {
		n, err := out.Read(buffer)
		output.Write(buffer[:n])
		if err != nil {
			break
		}
	}
	if _, err := io.WriteString(in, "\x1d"); err != nil { // Ctrl-]
		t.Error(err)
	}
	if _, err := io.Copy(&output, out); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(errs.String(), "Detached from target ") {
		t.Errorf("console %s: got error %v, want a message about detaching:\n%s", name, err, errs.String())
	}
	return output.String()
}

func (l *lab) serverName(t *testing.T) string {
	return l.target(t, "target-1").Spec.ProvisioningServerRef.Name
}

func upTwice(t *testing.T, l *lab) {
	before := l.target(t, "target-1")
	l.up(t, "--samples=debian")
	after := l.target(t, "target-1")
	if before.ResourceVersion != after.ResourceVersion {
		t.Errorf("second up changed target-1: got\n%+[2]v, want\n%+[1]v", before.Status, after.Status)
	}
}

func badInput(t *testing.T, l *lab) {
	good := l.target(t, "target-1")
	bad := &v1alpha1.BareMetalTarget{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: "bad"},
		Spec:       *good.Spec.DeepCopy(),
	}
	bad.Spec.Hostname = ""
	bad.Spec.Machine.NICs = []v1alpha1.NIC{{Name: "lab", Addresses: []v1alpha1.IPv4{v1alpha1.IPv4(good.BootNICStatus().Address())}}}
	if err := l.client.Create(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	defer l.remove(t, "bad")
	failed := l.awaitPhase(t, "bad", v1alpha1.TargetFailed)
	if !strings.Contains(failed.Status.Message, "target-1") {
		t.Errorf("got message %q, want the name of the target that has the address", failed.Status.Message)
	}
	// Without the conflicting address the target can be powered off.
	l.update(t, "bad", func(s *v1alpha1.BareMetalTargetSpec) {
		s.Machine.NICs[0].Addresses = nil
		s.Power = v1alpha1.PowerOff
	})
	l.awaitPhase(t, "bad", v1alpha1.TargetStopped)

	small := bad.DeepCopy()
	small.ObjectMeta = metav1.ObjectMeta{Namespace: l.namespace, Name: "small"}
	small.Spec.Machine.NICs = nil
	small.Spec.Machine.Disks = []v1alpha1.Disk{{Name: "disk0", Size: resource.MustParse("64Mi")}}
	if err := l.client.Create(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	defer l.remove(t, "small")
	failed = l.awaitPhase(t, "small", v1alpha1.TargetFailed)
	if !strings.Contains(failed.Status.Message, "disks[0].size") {
		t.Errorf("got message %q, want the field of the disk", failed.Status.Message)
	}
	if got := l.target(t, "target-1").Status.Phase; got != v1alpha1.TargetReady {
		t.Errorf("got target-1 in phase %s after other targets' errors, want Ready", got)
	}
}

// powerCycle turns a target off and on. It must boot from its disk: a network boot
// would show in the serial log.
func powerCycle(t *testing.T, l *lab) {
	before := l.target(t, "target-1")
	l.ssh(t, "target-1", "echo kept | sudo tee /root/kept; sudo sync")
	boots := strings.Count(l.serial(t, before), "iPXE")
	l.update(t, "target-1", func(s *v1alpha1.BareMetalTargetSpec) { s.Power = v1alpha1.PowerOff })
	l.awaitPhase(t, "target-1", v1alpha1.TargetStopped)
	off := l.await(t, "target-1", "off", func(o *v1alpha1.BareMetalTarget) bool { return o.Status.Power == v1alpha1.PowerOff })
	c := meta.FindStatusCondition(off.Status.Conditions, v1alpha1.ConditionMachineRunning)
	if c == nil || c.Message != "powered off by its guest" {
		t.Errorf("got condition %+v, want the message \"powered off by its guest\"", c)
	}
	l.update(t, "target-1", func(s *v1alpha1.BareMetalTargetSpec) { s.Power = v1alpha1.PowerOn })
	after := l.awaitPhase(t, "target-1", v1alpha1.TargetReady)
	if got := l.ssh(t, "target-1", "sudo cat /root/kept"); got != "kept" {
		t.Errorf("got file content %q, want \"kept\"", got)
	}
	if got := l.ssh(t, "target-1", "cloud-init status --wait"); !strings.Contains(got, "status: done") {
		t.Errorf("cloud-init after a power cycle: got %s, want status: done", got)
	}
	sameHostKeysAndAddress(t, before, after)
	if now := strings.Count(l.serial(t, after), "iPXE"); now != boots {
		t.Errorf("got %d iPXE starts, want %d as before", now, boots)
	}
	phases := ""
	for _, record := range after.Status.Timeline {
		phases += string(record.Phase) + " "
	}
	if !strings.HasSuffix(phases, "Ready Stopped Booting Ready ") && !strings.HasSuffix(phases, "Ready Stopped Pending Booting Ready ") {
		t.Errorf("got phases %s, want them to end with Ready Stopped Booting Ready", phases)
	}
}

// sameHostKeysAndAddress checks that a target can be reached and authenticated as
// before.
func sameHostKeysAndAddress(t *testing.T, before, after *v1alpha1.BareMetalTarget) {
	t.Helper()
	if !slices.Equal(before.Status.SSHHostKeys, after.Status.SSHHostKeys) {
		t.Errorf("got SSH host keys %q, want %q as before", after.Status.SSHHostKeys, before.Status.SSHHostKeys)
	}
	if before.BootNICStatus().Address() != after.BootNICStatus().Address() {
		t.Errorf("got address %s, want %s as before", after.BootNICStatus().Address(), before.BootNICStatus().Address())
	}
}

// serial returns the whole log of a target's serial console.
func (l *lab) serial(t *testing.T, o *v1alpha1.BareMetalTarget) string {
	t.Helper()
	out, err := l.run(t.Context(), "bin/kubectl-lab", "logs", "--raw", o.Name)
	if err != nil {
		t.Fatalf("reading the serial log of %[3]s: %[1]v\n%[2]s", err, out, o.Name)
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

// deletionLimit is how long a deletion may take in any state of the object.
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
			t.Logf("%s was deleted after %.1f s", o.GetName(), time.Since(started).Seconds())
			return
		}
		deadline.pause(t, fmt.Sprintf("%s still exists after %s", o.GetName(), deletionLimit))
	}
}

// machineFiles returns the paths of a machine's files as seen from this host.
func (l *lab) machineFiles(t *testing.T, id string) machine.Paths {
	t.Helper()
	root := "/"
	if l.inCluster {
		root = l.podRoot(t)
	}
	return machine.NewPaths(filepath.Join(root, l.data), filepath.Join(root, l.runtime), id)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// nothingLeft checks that a machine has left nothing on this host.
func (l *lab) nothingLeft(t *testing.T, id string) {
	t.Helper()
	files := l.machineFiles(t, id)
	for _, dir := range []string{files.Dir, files.Sockets} {
		if exists(dir) {
			t.Errorf("%s still exists", dir)
		}
	}
	if pids := l.processes(t, id); len(pids) > 0 {
		t.Errorf("machine %s has processes %v, want none", id, pids)
	}
}

// deleting deletes a target and checks that it leaves nothing on the host and on
// the server.
func deleting(t *testing.T, l *lab) {
	target := l.target(t, "target-2")
	server := l.serverName(t)
	if files := l.machineFiles(t, string(target.UID)); !exists(files.Dir) || !exists(files.Sockets) {
		t.Errorf("got no files of the machine in %s and %s", files.Dir, files.Sockets)
	}
	if !slices.Contains(l.leased(t, server), target.BootNICStatus().Address()) {
		t.Errorf("got no lease of %s", target.BootNICStatus().Address())
	}
	l.remove(t, "target-2")
	l.nothingLeft(t, string(target.UID))
	deadline := newDeadline(deletionLimit)
	for slices.Contains(l.leased(t, server), target.BootNICStatus().Address()) {
		deadline.pause(t, "the deleted target's lease still exists")
	}
}

// leased returns the addresses of a server's leases.
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

// down stops the lab, twice: the second time is harmless.
func down(t *testing.T, l *lab) {
	for _, want := range []string{"objects in phase Stopped: ", "the lab is stopped"} {
		out, err := l.run(t.Context(), "bin/lab", "down")
		if err != nil {
			t.Fatalf("lab down: %v\n%s", err, out)
		}
		if !strings.Contains(out, want) || strings.Contains(out, "keep their status") {
			t.Errorf("lab down: got output\n%swant it to contain %q", out, want)
		}
	}
	if pids := l.processes(t, l.data); len(pids) > 0 {
		t.Errorf("got processes of the lab %v, want none", pids)
	}
}

// upAfterDown starts a lab that was stopped. "lab up" returns when the machines are Ready,
// and not because they were when the lab was stopped.
func upAfterDown(t *testing.T, l *lab) {
	dir := t.TempDir()
	for i, o := range l.samples(t) {
		if o.GetName() == "target-2" {
			continue // an earlier step has deleted it
		}
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Now()
	l.up(t, "--samples="+dir)
	if got := l.ssh(t, "target-1", "hostname"); got != "target-1" {
		t.Errorf("SSH as soon as \"lab up\" has returned: got host name %q, want target-1", got)
	}
	target := l.target(t, "target-1")
	if target.Status.Phase != v1alpha1.TargetReady {
		t.Errorf("got phase %s, want Ready", target.Status.Phase)
	}
	var phases []string
	for _, record := range target.Status.Timeline {
		phases = append(phases, string(record.Phase))
	}
	last := target.Status.Timeline[len(target.Status.Timeline)-1]
	if got := strings.Join(phases, " "); !strings.Contains(got, "Ready Stopped ") || !strings.HasSuffix(got, " Booting Ready") ||
		last.StartedAt.Time.Before(started) {
		t.Errorf("got phases %s, the last at %s, want Ready Stopped ... Booting Ready, the last after %s", got, last.StartedAt, started)
	}
}
