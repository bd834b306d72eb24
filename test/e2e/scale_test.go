// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/process"
)

// envScale has the numbers of simulated targets that BenchmarkScale installs.
const envScale = "PXELAB_SCALE"

// What BenchmarkScale asserts. They are counts, sizes and ratios; the seconds it prints
// depend on the host.
const (
	// A thousand targets take at most this many times as long as a hundred.
	scaleRatio = 12
	// maxWrites to objects and statuses, maxEvents and maxReconciles are per target, from
	// its creation until it is Ready.
	maxWrites, maxEvents, maxReconciles = 15, 10, 80
	managerLimit                        = 250e6
	// simulatorLimit is per machine, without the program itself; see perMachine.
	simulatorLimit = 300e3
)

// scaleResult is one row of the table. The counts are per target.
type scaleResult struct {
	targets                            int
	ready, gone                        time.Duration
	bytes, reconciles, looks           float64
	objectWrites, statusWrites, events float64
	managerRSS, simulatorRSS           int64
	installing, deleting               cpuTimes
}

// cpuTimes is processor time since a process started, or between two moments.
type cpuTimes struct {
	controlPlane, manager, simulator, server time.Duration
}

func (c cpuTimes) minus(earlier cpuTimes) cpuTimes {
	return cpuTimes{
		controlPlane: c.controlPlane - earlier.controlPlane,
		manager:      c.manager - earlier.manager,
		simulator:    c.simulator - earlier.simulator,
		server:       c.server - earlier.server,
	}
}

func (c cpuTimes) String() string {
	return fmt.Sprintf("%6.1f %6.1f %6.1f %6.1f", c.controlPlane.Seconds(), c.manager.Seconds(), c.simulator.Seconds(), c.server.Seconds())
}

// BenchmarkScale installs simulated targets from one emulated provisioning VM and
// deletes them. A target transfers a boot program of 64 KiB, kernel, initrd and installer
// of 256 KiB together, and an image of 1 MiB; in the last row, what the samples have.
func BenchmarkScale(b *testing.B) {
	for range b.N {
		l := newLab(b)
		files := l.smallFiles(b)
		l.up(b, "--samples=none")
		m := l.measure(b, files.programs)
		m.apply(b, "simulated/provisioningserver.yaml", "simulated/bootprofile.yaml")
		m.setIPXE(b, v1alpha1.IPXEProgram{
			Architecture: v1alpha1.ArchitectureX86_64, Source: v1alpha1.ArtifactSource{Path: "simulated/ipxe.efi", Checksum: v1alpha1.Checksum(files.ipxe)},
		})
		m.await(b, "provisioningserver/lab", "bootprofile/simulated")
		results := map[int]scaleResult{}
		fmt.Printf("\n%s\n", scaleHead)
		for _, n := range scaleSizes(b) {
			results[n] = m.row(b, n, "simulated")
		}
		m.setIPXE(b)
		m.restart(b, filepath.Join(l.root, "bin"))
		m.apply(b, "debian/bootprofile.yaml")
		m.await(b, "provisioningserver/lab", "bootprofile/debian-13")
		m.row(b, 10, "debian-13")
		small, large := results[100], results[1000]
		if small.targets > 0 && large.targets > 0 {
			ratio := large.ready.Seconds() / small.ready.Seconds()
			fmt.Printf("1000 targets took %.1f times as long as 100, limit %d\n", ratio, scaleRatio)
			if ratio > scaleRatio {
				b.Errorf("1000 targets: got %.1f times the time of 100, want at most %d", ratio, scaleRatio)
			}
		}
	}
}

func scaleSizes(b *testing.B) []int {
	text := os.Getenv(envScale)
	if text == "" {
		text = "10 100 1000"
	}
	var sizes []int
	for _, f := range strings.Fields(text) {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			b.Fatalf("%s=%s: want numbers of targets", envScale, text)
		}
		sizes = append(sizes, n)
	}
	return sizes
}

// must runs a command that has to succeed, and returns its output.
func (l *lab) must(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := l.output(cmd)
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return out
}

// smallFiles are what replaces the large files of a lab whose machines execute nothing.
type smallFiles struct {
	programs string // a directory for the manager's --programs-dir
	ipxe     string // the checksum of simulated/ipxe.efi in the image folder
}

// smallFiles writes them. A boot program must begin as one.
func (l *lab) smallFiles(b *testing.B) smallFiles {
	b.Helper()
	out := l.must(b, exec.Command(filepath.Join(l.root, "config/samples/simulated/files.sh")))
	folder := strings.TrimSpace(out)
	program, err := os.ReadFile(filepath.Join(filepath.Dir(folder), "ipxe", "ipxe-x86_64.efi"))
	if err != nil {
		b.Fatal(err)
	}
	program = program[:64<<10]
	files := smallFiles{programs: b.TempDir(), ipxe: fmt.Sprintf("sha256:%x", sha256.Sum256(program))}
	errs := []error{
		os.WriteFile(filepath.Join(folder, "ipxe.efi"), program, 0o600),
		os.WriteFile(filepath.Join(files.programs, "installer-linux-amd64"), bytes.Repeat([]byte("pxelab!\n"), 16<<10), 0o700),
	}
	for _, name := range []string{"installer-linux-arm64", "netbootd-linux-amd64", "netbootd-linux-arm64", "simulator"} {
		errs = append(errs, os.Symlink(filepath.Join(l.root, "bin", name), filepath.Join(files.programs, name)))
	}
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	return files
}

// measured is a lab whose manager serves metrics.
type measured struct {
	*lab
	path    string // of the manager
	args    []string
	address string // of the metrics
	manager int    // its process
	end     func()
	// fewest is the first row, whose simulator has the fewest machines.
	fewest scaleResult
}

// measure replaces the lab's manager, until the test ends, by one that serves metrics and
// has its programs in another directory.
func (l *lab) measure(b *testing.B, programs string) *measured {
	b.Helper()
	var record struct {
		Path string
		Args []string
	}
	raw, err := os.ReadFile(l.recordOf(manager))
	if err == nil {
		err = json.Unmarshal(raw, &record)
	}
	if err != nil {
		b.Fatal(err)
	}
	old := l.program(b, manager)
	if err := process.Signal(old, syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	if _, err := process.Wait(b.Context(), old); err != nil {
		b.Fatal(err)
	}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer port.Close()
	m := &measured{lab: l, path: record.Path, args: record.Args, address: port.Addr().String(), end: func() {}}
	b.Cleanup(func() { m.end() })
	_ = port.Close()
	m.restart(b, programs)
	return m
}

// restart starts a manager with this directory of programs.
func (m *measured) restart(b *testing.B, programs string) {
	b.Helper()
	m.end()
	log, err := os.OpenFile(filepath.Join(m.data, "logs", "measured.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(m.path, append(slices.Clone(m.args), "--metrics-bind-address="+m.address, "--programs-dir="+programs)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = m.env, log, log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	m.manager = cmd.Process.Pid
	m.end = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
	})
	for d := newDeadline(guestLimit); ; d.pause(b, "the manager serves no metrics") {
		if _, err := m.scrape(b.Context()); err == nil {
			return
		}
	}
}

// apply applies samples.
func (m *measured) apply(b *testing.B, files ...string) {
	b.Helper()
	for _, file := range files {
		m.must(b, m.command(b.Context(), "bin/controlplane", "kubectl", "apply", "-f", filepath.Join("config/samples", file)))
	}
}

// await waits until objects are Ready.
func (m *measured) await(b *testing.B, objects ...string) {
	b.Helper()
	args := append([]string{"kubectl", "wait", "--for=condition=Ready", "--timeout=" + guestLimit.String()}, objects...)
	m.must(b, m.command(b.Context(), "bin/controlplane", args...))
}

// setIPXE sets the server's boot programs; none are those of the image folder.
func (m *measured) setIPXE(b *testing.B, programs ...v1alpha1.IPXEProgram) {
	b.Helper()
	server := &v1alpha1.ProvisioningServer{}
	if err := m.client.Get(b.Context(), client.ObjectKey{Namespace: m.namespace, Name: "lab"}, server); err != nil {
		b.Fatal(err)
	}
	base := server.DeepCopy()
	server.Spec.IPXE = programs
	if err := m.client.Patch(b.Context(), server, client.MergeFrom(base)); err != nil {
		b.Fatal(err)
	}
}

func (m *measured) scrape(ctx context.Context) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.address+"/metrics", nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

// counters are the metrics that a row is made of.
type counters struct {
	bytes, reconciles, looks, objectWrites, statusWrites, events float64
	cpu                                                          cpuTimes
}

func (m *measured) counters(b *testing.B) counters {
	b.Helper()
	text, err := m.scrape(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	const writes = "pxelab_api_writes_total"
	c := counters{
		bytes:      sum(text, "pxelab_netbootd_sent_bytes_total"),
		reconciles: sum(text, "controller_runtime_reconcile_total", `controller="baremetaltarget"`),
		looks:      sum(text, "pxelab_machine_observations_total"),
		events:     sum(text, writes, `resource="events"`),
	}
	c.statusWrites = sum(text, writes, `subresource="status"`)
	c.objectWrites = sum(text, writes, `subresource=""`) - c.events
	_, c.cpu.controlPlane = usage(b, m.program(b, controlPlane).PID)
	_, c.cpu.manager = usage(b, m.manager)
	if pid := m.simulator(b); pid != 0 {
		_, c.cpu.simulator = usage(b, pid)
	}
	server := &v1alpha1.ProvisioningServer{}
	if err := m.client.Get(b.Context(), client.ObjectKey{Namespace: m.namespace, Name: "lab"}, server); err != nil {
		b.Fatal(err)
	}
	for _, pid := range m.processes(b, string(server.UID)) {
		_, cpu := usage(b, pid)
		c.cpu.server += cpu
	}
	return c
}

// simulator returns its process, 0 if it does not run.
func (m *measured) simulator(b *testing.B) int {
	if pids := m.processes(b, "simulator\x00--data-dir\x00"+m.data); len(pids) > 0 {
		return pids[0]
	}
	return 0
}

// sum adds the values of a metric whose labels contain all texts.
func sum(metrics, name string, labels ...string) (total float64) {
lines:
	for line := range strings.Lines(metrics) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue lines
			}
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(strings.TrimSpace(rest), ' ')+1:]), 64)
		if err == nil {
			total += value
		}
	}
	return total
}

// The two last groups are processor seconds of the control plane, the manager, the
// simulator and the provisioning VM, until the targets are Ready and until they are gone.
const scaleHead = "targets profile     ready s  gone s  MB/target  reconciles  looks  writes  statuses  events  manager MB  simulator MB  kB/machine  " +
	"| control manage simula server | deletion"

// perMachine returns how many bytes of memory the simulator needs for each machine: what it
// has more than with the fewest machines, divided by how many machines it has more. The
// program itself, some 20 MB, so does not count. It is 0 in the first row.
func (m *measured) perMachine(r scaleResult) float64 {
	if m.fewest.targets == 0 {
		m.fewest = r
	}
	more := r.targets - m.fewest.targets
	if more <= 0 {
		return 0
	}
	return float64(r.simulatorRSS-m.fewest.simulatorRSS) / float64(more)
}

// row installs n targets, deletes them, prints a row of the table and checks it.
func (m *measured) row(b *testing.B, n int, profile string) scaleResult {
	b.Helper()
	r := m.install(b, n, profile)
	perMachine := m.perMachine(r)
	fmt.Printf("%7d %-10s %8.1f %7.1f %10.2f %11.1f %6.1f %7.1f %9.1f %7.1f %11d %13d %11.0f  | %s | %s\n",
		n, profile, r.ready.Seconds(), r.gone.Seconds(), r.bytes/1e6, r.reconciles, r.looks, r.objectWrites, r.statusWrites, r.events,
		r.managerRSS/1e6, r.simulatorRSS/1e6, perMachine/1e3, r.installing, r.deleting)
	for _, limit := range []struct {
		what     string
		got, max float64
	}{
		{"writes of a target", r.objectWrites + r.statusWrites, maxWrites},
		{"Events of a target", r.events, maxEvents},
		{"reconciliations of a target", r.reconciles, maxReconciles},
		{"bytes of the manager's memory", float64(r.managerRSS), managerLimit},
		{"bytes of the simulator's memory per machine", perMachine, simulatorLimit},
	} {
		if limit.got > limit.max {
			b.Errorf("%d targets: got %.1f %s, want at most %.0f", n, limit.got, limit.what, limit.max)
		}
	}
	return r
}

// install creates n simulated targets, waits until all are Ready, and deletes them.
func (m *measured) install(b *testing.B, n int, profile string) scaleResult {
	b.Helper()
	prefix := fmt.Sprintf("%s-%d-", profile, n)
	manifests := simulatedTargets(b, prefix, n, profile)
	stream, err := m.client.Watch(b.Context(), &v1alpha1.BareMetalTargetList{}, client.InNamespace(m.namespace))
	if err != nil {
		b.Fatal(err)
	}
	defer stream.Stop()
	before, began := m.counters(b), time.Now()
	apply := m.command(b.Context(), "bin/controlplane", "kubectl", "create", "-f", "-")
	apply.Stdin = bytes.NewReader(manifests)
	applied := make(chan error, 1)
	go func() {
		out, err := m.output(apply)
		if err != nil {
			err = fmt.Errorf("kubectl create: %w\n%s", err, out)
		}
		applied <- err
	}()
	awaitEach(b, stream, n, "Ready", func(e watch.Event) bool {
		return e.Object.(*v1alpha1.BareMetalTarget).Status.Phase == v1alpha1.TargetReady
	})
	r := scaleResult{targets: n, ready: time.Since(began)}
	if err := <-applied; err != nil {
		b.Fatal(err)
	}
	r.managerRSS, _ = usage(b, m.manager)
	r.simulatorRSS, _ = usage(b, m.simulator(b))
	after := m.counters(b)
	each := func(after, before float64) float64 { return (after - before) / float64(n) }
	r.bytes, r.reconciles, r.looks = each(after.bytes, before.bytes), each(after.reconciles, before.reconciles), each(after.looks, before.looks)
	r.objectWrites, r.statusWrites = each(after.objectWrites, before.objectWrites), each(after.statusWrites, before.statusWrites)
	r.events = each(after.events, before.events)
	r.installing = after.cpu.minus(before.cpu)
	b.Logf("%d targets are Ready after %.1f s", n, r.ready.Seconds())

	began = time.Now()
	if err := m.client.DeleteAllOf(b.Context(), &v1alpha1.BareMetalTarget{}, client.InNamespace(m.namespace)); err != nil {
		b.Fatal(err)
	}
	awaitEach(b, stream, n, "deleted", func(e watch.Event) bool { return e.Type == watch.Deleted })
	r.gone = time.Since(began)
	r.deleting = m.counters(b).cpu.minus(after.cpu)
	return r
}

// awaitEach waits until an event of each of n targets satisfies ok.
func awaitEach(b *testing.B, stream watch.Interface, n int, what string, ok func(watch.Event) bool) {
	b.Helper()
	done, last := map[string]bool{}, map[string]*v1alpha1.BareMetalTarget{}
	timeout := time.After(guestLimit)
	for len(done) < n {
		select {
		case e, open := <-stream.ResultChan():
			if !open {
				b.Fatal("the watch has ended")
			}
			t, isTarget := e.Object.(*v1alpha1.BareMetalTarget)
			if !isTarget {
				b.Fatalf("watch: got %+v, want a target", e.Object)
			}
			if t.Status.Phase == v1alpha1.TargetFailed {
				b.Fatalf("%s has failed: %s\n%s", t.Name, t.Status.Message, conditionsText(t))
			}
			last[t.Name] = t
			if ok(e) {
				done[t.Name] = true
			}
		case <-timeout:
			for name, t := range last {
				if !done[name] {
					b.Logf("%s: phase %s, %s\n%s", name, t.Status.Phase, t.Status.Message, conditionsText(t))
				}
			}
			b.Fatalf("%d of %d targets are %s after %s", len(done), n, what, guestLimit)
		}
	}
}

// simulatedTargets returns manifests.
func simulatedTargets(b testing.TB, prefix string, n int, profile string) []byte {
	b.Helper()
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	for i := range n {
		t := map[string]any{
			"apiVersion": v1alpha1.GroupVersion.String(), "kind": "BareMetalTarget",
			"metadata": metav1.ObjectMeta{Name: prefix + strconv.Itoa(i)},
			"spec": map[string]any{
				"parameters":            map[string]any{"role": "simulated"}, // of the template of config/samples/debian
				"provisioningServerRef": map[string]any{"name": "lab"}, "bootProfileRef": map[string]any{"name": profile},
				"machine": map[string]any{"runner": v1alpha1.RunnerSimulated, "disks": []any{map[string]any{"name": "disk0", "size": "4Gi"}}},
			},
		}
		text, err := yaml.Marshal(t)
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprintf(w, "---\n%s", text)
	}
	_ = w.Flush() // to memory
	return out.Bytes()
}
