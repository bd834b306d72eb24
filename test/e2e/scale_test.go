// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/pxelab/pxelab/api/v1alpha1"
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
	simulatorLimit                      = 300e3 // per machine
)

// scaleResult is one row of the table. The counts are per target.
type scaleResult struct {
	targets                             int
	ready, gone                         time.Duration
	bytes, reconciles, looks            float64
	objectWrites, statusWrites, events  float64
	managerRSS, simulatorRSS            int64
	managerCPU, simulatorCPU, serverCPU time.Duration
}

// BenchmarkScale installs simulated targets from one emulated provisioning VM and
// deletes them. The profile is the small one of config/samples/simulated; the last row
// has the files of config/samples/debian.
func BenchmarkScale(b *testing.B) {
	for range b.N {
		l := newLab(b)
		l.must(b, exec.Command(filepath.Join(l.root, "config/samples/simulated/files.sh")))
		l.up(b, "--samples=none")
		m := l.measure(b)
		samples := filepath.Join(l.root, "config", "samples")
		l.must(b, l.command(b.Context(), "bin/controlplane", "kubectl", "apply", "-f", filepath.Join(samples, "simulated/provisioningserver.yaml"),
			"-f", filepath.Join(samples, "simulated/bootprofile.yaml"), "-f", filepath.Join(samples, "debian/bootprofile.yaml")))
		l.must(b, l.command(b.Context(), "bin/controlplane", "kubectl", "wait", "--for=condition=Ready", "--timeout="+guestLimit.String(),
			"provisioningserver/lab", "bootprofile/simulated", "bootprofile/debian-13"))
		results := map[int]scaleResult{}
		fmt.Printf("\n%s\n", scaleHead)
		for _, n := range scaleSizes(b) {
			results[n] = m.row(b, n, "simulated")
		}
		m.row(b, 10, "debian-13")
		small, large := results[100], results[1000]
		if ratio := large.ready.Seconds() / small.ready.Seconds(); small.targets > 0 && large.targets > 0 {
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

// must runs a command that has to succeed.
func (l *lab) must(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if out, err := l.output(cmd); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// measured is a lab whose manager serves metrics.
type measured struct {
	*lab
	address string // of the metrics
	manager int    // its process
}

// measure replaces the lab's manager by one that serves metrics, until the test ends.
func (l *lab) measure(b *testing.B) *measured {
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
	if err := syscall.Kill(old.PID, syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	for d := newDeadline(guestLimit); syscall.Kill(old.PID, 0) == nil; {
		d.pause(b, "the manager has not ended")
	}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := port.Addr().String()
	_ = port.Close()
	cmd := exec.Command(record.Path, append(record.Args, "--metrics-bind-address="+address)...)
	cmd.Env = l.env
	log, err := os.Create(filepath.Join(l.data, "logs", "measured.log"))
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
	})
	m := &measured{lab: l, address: address, manager: cmd.Process.Pid}
	for d := newDeadline(guestLimit); ; d.pause(b, "the manager serves no metrics") {
		if _, err := m.scrape(b.Context()); err == nil {
			return m
		}
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
	manager, simulator, server                                   time.Duration
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
	_, c.manager = usage(b, m.manager)
	if pid := m.simulator(b); pid != 0 {
		_, c.simulator = usage(b, pid)
	}
	server := &v1alpha1.ProvisioningServer{}
	if err := m.client.Get(b.Context(), client.ObjectKey{Namespace: m.namespace, Name: "lab"}, server); err != nil {
		b.Fatal(err)
	}
	for _, pid := range m.processes(b, string(server.UID)) {
		_, cpu := usage(b, pid)
		c.server += cpu
	}
	return c
}

// simulator returns its process, 0 if it does not run.
func (m *measured) simulator(b *testing.B) int {
	if pids := m.processes(b, "bin/simulator\x00"); len(pids) > 0 {
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

const scaleHead = "targets profile     ready s  gone s  MB/target  reconciles  looks  writes  statuses  events  manager MB  simulator kB/machine  CPU s: manager simulator server"

// row installs n targets, deletes them, prints a row of the table and checks it.
func (m *measured) row(b *testing.B, n int, profile string) scaleResult {
	b.Helper()
	r := m.install(b, n, profile)
	perMachine := float64(r.simulatorRSS) / float64(n)
	fmt.Printf("%7d %-10s %8.1f %7.1f %10.2f %11.1f %6.1f %7.1f %9.1f %7.1f %11d %21.0f %14.1f %9.1f %6.1f\n",
		n, profile, r.ready.Seconds(), r.gone.Seconds(), r.bytes/1e6, r.reconciles, r.looks, r.objectWrites, r.statusWrites, r.events,
		r.managerRSS/1e6, perMachine/1e3, r.managerCPU.Seconds(), r.simulatorCPU.Seconds(), r.serverCPU.Seconds())
	for _, limit := range []struct {
		what     string
		got, max float64
	}{
		{"writes of a target", r.objectWrites + r.statusWrites, maxWrites},
		{"Events of a target", r.events, maxEvents},
		{"reconciliations of a target", r.reconciles, maxReconciles},
		{"bytes of the manager's memory", float64(r.managerRSS), managerLimit},
	} {
		if limit.got > limit.max {
			b.Errorf("%d targets: got %.1f %s, want at most %.0f", n, limit.got, limit.what, limit.max)
		}
	}
	// A few machines do not outweigh the program itself.
	if n >= 100 && perMachine > simulatorLimit {
		b.Errorf("%d targets: got %.0f bytes of the simulator's memory per machine, want at most %.0f", n, perMachine, simulatorLimit)
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
	r.managerCPU, r.simulatorCPU, r.serverCPU = after.manager-before.manager, after.simulator-before.simulator, after.server-before.server

	began = time.Now()
	if err := m.client.DeleteAllOf(b.Context(), &v1alpha1.BareMetalTarget{}, client.InNamespace(m.namespace)); err != nil {
		b.Fatal(err)
	}
	awaitEach(b, stream, n, "deleted", func(e watch.Event) bool { return e.Type == watch.Deleted })
	r.gone = time.Since(began)
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
func simulatedTargets(b *testing.B, prefix string, n int, profile string) []byte {
	b.Helper()
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	for i := range n {
		t := map[string]any{
			"apiVersion": v1alpha1.GroupVersion.String(), "kind": "BareMetalTarget",
			"metadata": metav1.ObjectMeta{Name: prefix + strconv.Itoa(i)},
			"spec": map[string]any{
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
