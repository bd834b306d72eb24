// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/metrics/metricstest"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is every source of a Collector.
type world struct {
	servers []v1alpha1.ProvisioningServer
	targets []v1alpha1.BareMetalTarget
	listErr error
	traffic map[string]labnet.Traffic
	stored  []artifact.Stored
	ages    map[string]time.Duration
	// netbootd answers for a server.
	netbootd func(ctx context.Context, server string) (netbootapi.Metrics, error)

	mu sync.Mutex
	// inventories counts the reads of the store.
	inventories int
	storeErr    error
}

func (w *world) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return errors.New("a scrape reads lists only")
}

func (w *world) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	switch list := list.(type) {
	case *v1alpha1.ProvisioningServerList:
		list.Items = w.servers
	case *v1alpha1.BareMetalTargetList:
		list.Items = w.targets
	}
	return w.listErr
}

func (w *world) Traffic() map[string]labnet.Traffic { return w.traffic }

func (w *world) Inventory() ([]artifact.Stored, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inventories++
	return w.stored, w.storeErr
}

func (w *world) FreeSpace() (int64, error) { return 1 << 30, nil }

func (w *world) OldestReconciles() map[string]time.Duration { return w.ages }

func (w *world) Metrics(ctx context.Context, server string) (netbootapi.Metrics, error) {
	return w.netbootd(ctx, server)
}

func newWorld() *world {
	target := func(name string, phase v1alpha1.TargetPhase, status metav1.ConditionStatus, reason string) v1alpha1.BareMetalTarget {
		return v1alpha1.BareMetalTarget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name},
			Status: v1alpha1.BareMetalTargetStatus{
				Phase:      phase,
				Conditions: []metav1.Condition{{Type: v1alpha1.ConditionProgressing, Status: status, Reason: reason}},
			},
		}
	}
	return &world{
		servers: []v1alpha1.ProvisioningServer{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "lab", UID: "server-uid"},
			Status:     v1alpha1.ProvisioningServerStatus{Phase: v1alpha1.ServerReady},
		}},
		targets: []v1alpha1.BareMetalTarget{
			target("a", v1alpha1.TargetReady, metav1.ConditionTrue, v1alpha1.ReasonReady),
			target("b", v1alpha1.TargetReady, metav1.ConditionTrue, v1alpha1.ReasonReady),
			target("c", v1alpha1.TargetPXE, metav1.ConditionFalse, v1alpha1.ReasonNoDiscover),
			target("d", v1alpha1.TargetPending, metav1.ConditionTrue, v1alpha1.ReasonWaitingForServer),
			{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "new"}},
		},
		traffic: map[string]labnet.Traffic{
			"server-uid":       {Frames: 7, Bytes: 700, Dropped: map[string]uint64{"Spoofed": 3, "Router": 0}},
			"server-that-left": {Frames: 1},
		},
		stored: []artifact.Stored{{Digest: "sha256:a", Bytes: 100}, {Digest: "sha256:b", Bytes: 23}},
		ages:   map[string]time.Duration{KindServer: 0, KindProfile: 0, KindTarget: 90 * time.Second},
		netbootd: func(context.Context, string) (netbootapi.Metrics, error) {
			return netbootapi.Metrics{
				StartedAt: time.Unix(1000, 0), Leases: 4, Machines: 5, Blobs: 6, BlobBytes: 7, FreeBytes: 8,
				Requests:   []netbootapi.RequestCount{{Service: "http", Kind: "kernel", Result: "OK", Count: 2}},
				Refused:    map[string]int64{"HTTPUnknownToken": 1},
				SentBytes:  map[string]int64{"http": 10},
				Renderings: map[string]int64{"plan": 2}, FailedRenderings: map[string]int64{"plan": 1},
			}, nil
		},
	}
}

func (w *world) sources() Sources {
	return Sources{Objects: w, Networks: w, Store: w, Netbootd: w, Reconciles: w}
}

// register returns a registry with everything that the manager registers.
func register(t *testing.T, w *world) (*prometheus.Registry, *Recorder, *Collector) {
	t.Helper()
	registry, recorder, collector := prometheus.NewPedanticRegistry(), NewRecorder(), NewCollector(w.sources())
	if err := errors.Join(registry.Register(recorder), registry.Register(collector)); err != nil {
		t.Fatal(err)
	}
	return registry, recorder, collector
}

func TestCollectorShowsSources(t *testing.T) {
	registry, _, _ := register(t, newWorld())
	got := metricstest.Values(t, registry, "pxelab_")
	maps.DeleteFunc(got, func(name string, value float64) bool {
		return value == 0 && strings.HasPrefix(name, "pxelab_machines{")
	})
	want := map[string]float64{
		"pxelab_machines{kind=ProvisioningServer,namespace=team,phase=Ready}": 1,
		"pxelab_machines{kind=BareMetalTarget,namespace=team,phase=Ready}":    2,
		"pxelab_machines{kind=BareMetalTarget,namespace=team,phase=PXE}":      1,
		"pxelab_machines{kind=BareMetalTarget,namespace=team,phase=Pending}":  2,
		"pxelab_targets_stalled{namespace=team,reason=NoDiscover}":            1,
		"pxelab_targets_waiting{namespace=team,reason=WaitingForServer}":      1,
		"pxelab_server_phase{namespace=team,phase=Ready,server=lab}":          1,
		"pxelab_reconcile_oldest_seconds{kind=ProvisioningServer}":            0,
		"pxelab_reconcile_oldest_seconds{kind=BootProfile}":                   0,
		"pxelab_reconcile_oldest_seconds{kind=BareMetalTarget}":               90,
		"pxelab_network_frames_total{namespace=team,server=lab}":              7,
		"pxelab_network_bytes_total{namespace=team,server=lab}":               700,

		"pxelab_network_dropped_frames_total{kind=Spoofed,namespace=team,server=lab}": 3,
		"pxelab_network_dropped_frames_total{kind=Router,namespace=team,server=lab}":  0,

		"pxelab_artifact_store_bytes{}":                    123,
		"pxelab_artifact_store_files{}":                    2,
		"pxelab_artifact_store_free_bytes{}":               1 << 30,
		"pxelab_collection_failures_total{source=objects}": 0,
		"pxelab_collection_failures_total{source=store}":   0,
		"pxelab_machine_observations_total{}":              0,
		"pxelab_machine_confinement_version{}":             0,

		"pxelab_netbootd_up{namespace=team,server=lab}":                 1,
		"pxelab_netbootd_start_time_seconds{namespace=team,server=lab}": 1000,
		"pxelab_netbootd_leases{namespace=team,server=lab}":             4,
		"pxelab_netbootd_machines{namespace=team,server=lab}":           5,
		"pxelab_netbootd_store_files{namespace=team,server=lab}":        6,
		"pxelab_netbootd_store_bytes{namespace=team,server=lab}":        7,
		"pxelab_netbootd_store_free_bytes{namespace=team,server=lab}":   8,

		"pxelab_netbootd_requests_total{kind=kernel,namespace=team,result=OK,server=lab,service=http}": 2,
		"pxelab_netbootd_refused_requests_total{kind=HTTPUnknownToken,namespace=team,server=lab}":      1,
		"pxelab_netbootd_sent_bytes_total{namespace=team,server=lab,service=http}":                     10,
		"pxelab_netbootd_renderings_total{file=plan,namespace=team,result=OK,server=lab}":              2,
		"pxelab_netbootd_renderings_total{file=plan,namespace=team,result=Failed,server=lab}":          1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

// A phase that has no machines is 0, not absent.
func TestEmptyPhasesAreShown(t *testing.T) {
	registry, _, _ := register(t, newWorld())
	got := metricstest.Values(t, registry, "pxelab_machines")
	if want := len(targetPhases) + len(serverPhases); len(got) != want {
		t.Errorf("got %v, want one series for each of %d phases", got, want)
	}
}

func TestRecorderCounts(t *testing.T) {
	registry, r, _ := register(t, newWorld())
	r.PhaseEnded("PXE", 3*time.Second)
	r.PhaseEnded("PXE", time.Hour)
	r.AttemptEnded(AttemptSucceeded, v1alpha1.ReasonInstalled)
	r.AttemptEnded(AttemptFailed, v1alpha1.ReasonInstallerError)
	r.MachineRestarted(KindTarget, "Failed")
	r.MachineRestarted(KindTarget, "")
	r.MachineObserved()
	got := metricstest.Values(t, registry, "pxelab_")
	for series, want := range map[string]float64{
		"pxelab_target_phase_seconds{phase=PXE}":                             2,
		"pxelab_install_attempts_total{reason=Installed,result=Succeeded}":   1,
		"pxelab_install_attempts_total{reason=InstallerError,result=Failed}": 1,
		"pxelab_machine_restarts_total{kind=BareMetalTarget,reason=Failed}":  1,
		"pxelab_machine_observations_total{}":                                1,
	} {
		if got[series] != want {
			t.Errorf("%s: got %v, want %v", series, got[series], want)
		}
	}
	if restarts := metricstest.Values(t, registry, "pxelab_machine_restarts"); len(restarts) != 1 {
		t.Errorf("got %v, want only the restart with a reason", restarts)
	}
	var none *Recorder
	none.PhaseEnded("PXE", time.Second)
	none.AttemptEnded(AttemptFailed, "Reason")
	none.MachineRestarted(KindServer, "Failed")
	none.MachineObserved()
}

// everything makes each metric have a series.
func everything(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	registry, r, _ := register(t, newWorld())
	r.PhaseEnded("PXE", time.Second)
	r.AttemptEnded(AttemptFailed, v1alpha1.ReasonInstallerError)
	r.MachineRestarted(KindTarget, "Failed")
	r.writes.WithLabelValues("events", "", "create").Inc()
	return metricstest.Gather(t, registry)
}

// What is documented of a metric is what is exposed.
func TestFamiliesDescribeWhatIsExposed(t *testing.T) {
	type described struct {
		Type, Help string
		Labels     []string
	}
	want, got := map[string]described{}, map[string]described{}
	for _, f := range Families() {
		want[f.Name] = described{f.Type, f.Help, slices.Sorted(slices.Values(f.Labels))}
	}
	for _, family := range everything(t) {
		var labels []string
		for _, l := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		got[family.GetName()] = described{strings.ToLower(family.GetType().String()), family.GetHelp(), labels}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("exposed metrics (-described +got):\n%s", diff)
	}
}

// A netbootd that hangs delays a scrape by no more than the patience, and its last
// counters stay.
func TestScrapeSurvivesNetbootdThatHangs(t *testing.T) {
	w := newWorld()
	answer := w.netbootd
	var mu sync.Mutex
	hang := false
	w.netbootd = func(ctx context.Context, server string) (netbootapi.Metrics, error) {
		mu.Lock()
		hangs := hang
		mu.Unlock()
		if hangs {
			<-ctx.Done()
			return netbootapi.Metrics{}, ctx.Err()
		}
		return answer(ctx, server)
	}
	registry, _, collector := register(t, w)
	metricstest.Gather(t, registry)
	n := collector.netbootds["server-uid"].counters
	n.mu.Lock()
	n.fresh, n.patience, n.limit = 0, time.Millisecond, time.Second
	n.mu.Unlock()
	mu.Lock()
	hang = true
	mu.Unlock()
	got := metricstest.Values(t, registry, "pxelab_netbootd_")
	if up, ok := got["pxelab_netbootd_up{namespace=team,server=lab}"]; !ok || up != 0 {
		t.Errorf("got up %v (shown: %t), want 0", up, ok)
	}
	if leases := got["pxelab_netbootd_leases{namespace=team,server=lab}"]; leases != 4 {
		t.Errorf("got %v leases, want the last 4", leases)
	}
	n.mu.Lock()
	n.keep = 0
	n.mu.Unlock()
	got = metricstest.Values(t, registry, "pxelab_netbootd_")
	if diff := cmp.Diff(map[string]float64{"pxelab_netbootd_up{namespace=team,server=lab}": 0}, got); diff != "" {
		t.Errorf("series of a netbootd that is silent for long (-want +got):\n%s", diff)
	}
	if fetching := n.begin(); fetching != nil {
		<-fetching
	}
}

func TestNetbootdOfRemovedServerIsForgotten(t *testing.T) {
	w := newWorld()
	registry, _, collector := register(t, w)
	metricstest.Gather(t, registry)
	w.servers[0].UID = types.UID("another")
	metricstest.Gather(t, registry)
	if _, known := collector.netbootds["server-uid"]; known || len(collector.netbootds) != 1 {
		t.Errorf("got %v, want only the netbootd of the present server", collector.netbootds)
	}
}

// A netbootd that reports ever new names adds a bounded number of series.
func TestSeriesOfNetbootdAreBounded(t *testing.T) {
	w := newWorld()
	scrape := 0
	w.netbootd = func(context.Context, string) (netbootapi.Metrics, error) {
		scrape++
		m := netbootapi.Metrics{Refused: map[string]int64{}}
		for i := range 200 {
			m.Refused[fmt.Sprintf("Kind%d-%d", scrape, i)] = 1
		}
		return m, nil
	}
	registry, _, collector := register(t, w)
	seen := map[string]bool{}
	for range 5 {
		for series := range metricstest.Values(t, registry, "pxelab_netbootd_refused") {
			seen[series] = true
		}
		n := collector.netbootds["server-uid"].counters
		n.mu.Lock()
		n.fresh = 0
		n.mu.Unlock()
	}
	if len(seen) == 0 || len(seen) > maxSeries {
		t.Errorf("got %d series in 5 scrapes, want at most %d", len(seen), maxSeries)
	}
}

func TestStoreIsNotReadByEveryScrape(t *testing.T) {
	w := newWorld()
	registry, _, collector := register(t, w)
	for range 10 {
		metricstest.Gather(t, registry)
	}
	if w.inventories != 1 {
		t.Errorf("got %d reads of the store in 10 scrapes, want 1", w.inventories)
	}
	// The last state stays while the store cannot be read.
	w.mu.Lock()
	w.storeErr = errors.New("I/O error")
	w.mu.Unlock()
	collector.store.mu.Lock()
	collector.store.fresh = 0
	collector.store.mu.Unlock()
	got := metricstest.Values(t, registry, "pxelab_")
	if got["pxelab_artifact_store_bytes{}"] != 123 || got["pxelab_collection_failures_total{source=store}"] != 1 {
		t.Errorf("got %v bytes and %v failures, want 123 and 1",
			got["pxelab_artifact_store_bytes{}"], got["pxelab_collection_failures_total{source=store}"])
	}
}

func TestScrapeWithoutCacheShowsTheRest(t *testing.T) {
	w := newWorld()
	w.listErr = errors.New("the cache is not started")
	registry, _, _ := register(t, w)
	got := metricstest.Values(t, registry, "pxelab_")
	if got["pxelab_collection_failures_total{source=objects}"] != 1 || got["pxelab_artifact_store_files{}"] != 2 {
		t.Errorf("got %v, want a failure of the objects and the files of the store", got)
	}
}
