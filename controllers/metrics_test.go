// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/metrics"
	"github.com/pxelab/pxelab/internal/metrics/metricstest"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// newMeasuredLab is a lab whose manager counts into a registry as cmd/manager's does.
func newMeasuredLab(t *testing.T) (*lab, *prometheus.Registry, *statusWrites) {
	t.Helper()
	l, registry, writes := newLab(t), prometheus.NewPedanticRegistry(), &statusWrites{}
	recorder := metrics.NewRecorder()
	var host *controllers.Host
	l.wrap = func(next http.RoundTripper) http.RoundTripper { return recorder.CountWrites(writes.wrap(next)) }
	l.adapt = func(h *controllers.Host) {
		h.Metrics = recorder
		host = h
	}
	l.restart()
	collector := metrics.NewCollector(metrics.Sources{
		Objects: l.client,
		Networks: host.Networks.(interface {
			Traffic() map[string]labnet.Traffic
		}),
		Store:      host.Artifacts,
		Reconciles: l.set,
		Netbootd: host.Sessions.(interface {
			Metrics(ctx context.Context, server string) (netbootapi.Metrics, error)
		}),
	})
	l.must(errors.Join(registry.Register(recorder), registry.Register(collector)))
	return l, registry, writes
}

// forge sends a frame to the switch as a guest that uses another machine's address.
func (l *lab) forge(bmt *v1alpha1.BareMetalTarget) {
	l.t.Helper()
	conn, err := net.Dial("unixgram", filepath.Join(l.paths(string(bmt.UID)).Sockets, "sw"))
	l.must(err)
	defer conn.Close()
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x88, 0xb5}, make([]byte, 46)...)
	_, err = conn.Write(frame)
	l.must(err)
}

const pendingSeconds = "pxelab_target_phase_seconds{phase=Pending}"

// endedPhases counts the phases that the timelines of targets show as ended, but for
// Pending: the timeline starts over when the first disks are created.
func endedPhases(targets ...*v1alpha1.BareMetalTarget) map[string]float64 {
	ended := map[string]float64{}
	for _, t := range targets {
		for _, record := range t.Status.Timeline[:len(t.Status.Timeline)-1] {
			ended[fmt.Sprintf("pxelab_target_phase_seconds{phase=%s}", record.Phase)]++
		}
	}
	delete(ended, pendingSeconds)
	return ended
}

// The metrics after a run equal what happened in it.
func TestMetricsEqualWhatHappened(t *testing.T) {
	l, registry, writes := newMeasuredLab(t)
	l.create(newServer("lab"), newProfile("debian"))
	l.waitReadyServer("lab")
	l.netbootd("lab").SetMetrics(netbootapi.Metrics{Leases: 3, Refused: map[string]int64{"HTTPUnknownToken": 2}})

	once := newTarget("bad")
	once.Spec.MaxAttempts = 1 // the timeline is that of the last attempt
	l.create(newTarget("good"), once)
	good := l.becomesReady("good")
	bad := l.waitAttempt("bad", 1)
	l.installs(bad, 370)
	l.waitPhase("bad", v1alpha1.TargetInstalling)
	l.breaks(bad, "the disk is on fire")
	l.waitPhase("bad", v1alpha1.TargetFailed)
	l.machines.crash(string(good.UID))
	l.eventually(func() string {
		if l.machines.starts(string(good.UID)) < 2 {
			return "the machine is not started again"
		}
		return ""
	})
	l.answers(good)
	l.waitPhase("good", v1alpha1.TargetReady)
	l.forge(good)
	l.forge(good)

	// inLab returns the series of the lab's namespace: other tests' objects exist as well.
	inLab := func(prefix string) map[string]float64 {
		found := map[string]float64{}
		for name, value := range metricstest.Values(t, registry, prefix) {
			if strings.Contains(name, "namespace="+l.ns+",") && value != 0 {
				found[strings.Replace(name, "namespace="+l.ns+",", "", 1)] = value
			}
		}
		return found
	}
	wait := func(what string, want func() map[string]float64, got func() map[string]float64) {
		t.Helper()
		l.eventually(func() string {
			if diff := cmp.Diff(want(), got()); diff != "" {
				return what + " (-want +got):\n" + diff
			}
			return ""
		})
	}
	values := func(prefix string) func() map[string]float64 {
		return func() map[string]float64 { return metricstest.Values(t, registry, prefix) }
	}
	fixed := func(want map[string]float64) func() map[string]float64 {
		return func() map[string]float64 { return want }
	}
	wait("attempts", fixed(map[string]float64{
		"pxelab_install_attempts_total{reason=Installed,result=Succeeded}":   1,
		"pxelab_install_attempts_total{reason=InstallerError,result=Failed}": 1,
	}), values("pxelab_install_attempts"))
	wait("restarts", fixed(map[string]float64{"pxelab_machine_restarts_total{kind=BareMetalTarget,reason=Failed}": 1}),
		values("pxelab_machine_restarts"))
	wait("phases", func() map[string]float64 { return endedPhases(l.target("good"), l.target("bad")) }, func() map[string]float64 {
		observed := metricstest.Values(t, registry, "pxelab_target_phase_seconds")
		delete(observed, pendingSeconds)
		return observed
	})
	wait("observations", func() map[string]float64 {
		return map[string]float64{"pxelab_machine_observations_total{}": float64(l.machines.looks())}
	}, values("pxelab_machine_observations"))
	wait("writes of statuses", func() map[string]float64 { return map[string]float64{"all": float64(writes.all())} }, func() map[string]float64 {
		sum := 0.0
		for name, value := range metricstest.Values(t, registry, "pxelab_api_writes") {
			if strings.Contains(name, "subresource=status,verb=patch") {
				sum += value
			}
		}
		return map[string]float64{"all": sum}
	})
	if got := metricstest.Values(t, registry, "pxelab_api_writes")["pxelab_api_writes_total{resource=events,subresource=,verb=create}"]; got < 1 {
		t.Errorf("got %v writes of Events, want some", got)
	}
	wait("machines", fixed(map[string]float64{
		"pxelab_machines{kind=BareMetalTarget,phase=Failed}":   1,
		"pxelab_machines{kind=BareMetalTarget,phase=Ready}":    1,
		"pxelab_machines{kind=ProvisioningServer,phase=Ready}": 1,
	}), func() map[string]float64 { return inLab("pxelab_machines") })
	wait("refused frames", fixed(map[string]float64{"pxelab_network_dropped_frames_total{kind=Spoofed,server=lab}": 2}),
		func() map[string]float64 { return inLab("pxelab_network_dropped") })
	wait("netbootd", fixed(map[string]float64{
		"pxelab_netbootd_up{server=lab}":                                           1,
		"pxelab_netbootd_leases{server=lab}":                                       3,
		"pxelab_netbootd_refused_requests_total{kind=HTTPUnknownToken,server=lab}": 2,
	}), func() map[string]float64 {
		found := inLab("pxelab_netbootd_")
		delete(found, "pxelab_netbootd_start_time_seconds{server=lab}") // the fake's
		return found
	})
	for name, age := range metricstest.Values(t, registry, "pxelab_reconcile_oldest_seconds") {
		if age > limit.Seconds() {
			t.Errorf("got %s = %v, want less than %s", name, age, limit)
		}
	}
}

// hangingMachines hang when a machine is observed.
type hangingMachines struct {
	*machines
	id   string
	gate chan struct{}
}

func (m *hangingMachines) Observe(ctx context.Context, id string) (machine.State, error) {
	if id == m.id {
		<-m.gate
	}
	return m.machines.Observe(ctx, id)
}

// failures returns the readiness checks that fail, with their errors.
func (l *lab) failures() map[string]string {
	failed := map[string]string{}
	for name, check := range l.set.ReadyChecks() {
		request, err := http.NewRequestWithContext(l.ctx, http.MethodGet, "/readyz", nil)
		l.must(err)
		if err := check(request); err != nil {
			failed[name] = err.Error()
		}
	}
	return failed
}

// A manager is ready once it has adopted every machine, and stays ready when objects are
// created.
func TestManagerIsReadyAfterAdoption(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	l.stopManager()
	hanging := &hangingMachines{machines: l.machines, id: string(target.UID), gate: make(chan struct{})}
	release := sync.OnceFunc(func() { close(hanging.gate) })
	t.Cleanup(release)
	l.adapt = func(h *controllers.Host) { h.Machines = hanging }
	l.start()
	l.eventually(func() string {
		return strings.TrimPrefix(fmt.Sprint(l.failures()),
			fmt.Sprintf("map[adoption:1 objects were not reconciled since the start of the manager, one is BareMetalTarget %s/target-1]", l.ns))
	})
	release()
	l.eventually(func() string { return strings.TrimPrefix(fmt.Sprint(l.failures()), "map[]") })
	l.create(newTarget("target-2"))
	if failed := l.failures(); len(failed) > 0 {
		t.Errorf("after another target was created: got failing checks %v, want none", failed)
	}
}
