// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func take(t *testing.T, dir string) *Directory {
	t.Helper()
	d, err := TakeDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func release(t *testing.T, d *Directory) {
	t.Helper()
	if err := d.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	first := take(t, dir)
	_, err := TakeDirectory(dir)
	for _, want := range []string{"another manager", fmt.Sprintf("process %d", os.Getpid()), dir, "--data-dir"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	release(t, first)
	second := take(t, dir)
	if second.ID != first.ID || second.ID == "" || second.Place != first.Place {
		t.Errorf("%+v after %+v: want the same directory", second, first)
	}
	release(t, second)
	other := take(t, t.TempDir())
	defer release(t, other)
	if other.ID == first.ID {
		t.Error("two directories have one ID")
	}
	for _, name := range []string{lockName, idName} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	// What a lock says of its holder may be damaged, the lock itself not.
	third := take(t, dir)
	defer release(t, third)
	if err := os.WriteFile(filepath.Join(dir, lockName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := TakeDirectory(dir); err == nil || !strings.Contains(err.Error(), "another manager runs on") {
		t.Errorf("error %v", err)
	}
}

func newCluster(t *testing.T) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := coordinationv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).Build()
}

func TestCluster(t *testing.T) {
	c := newCluster(t)
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	claim := func(d *Directory) error {
		_, err := TakeCluster(t.Context(), ClusterOptions{Client: c, Namespace: "x", Directory: d, Log: logr.Discard(), Now: func() time.Time { return now }})
		return err
	}
	first := &Directory{ID: "1", Place: "a:/one"}
	for range 2 { // the second time as after a crash
		if err := claim(first); err != nil {
			t.Fatal(err)
		}
	}
	second := &Directory{ID: "2", Place: "b:/two"}
	now = now.Add(30 * time.Second)
	if err := claim(second); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "a:/one, whose manager runs (heard 30s ago)") {
		t.Errorf("error %v, want the place of the manager that runs", err)
	}
	now = now.Add(time.Hour)
	if err := claim(second); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "kubectl -n x delete lease manager.pxelab.io") {
		t.Errorf("error %v, want what to do about one that is away", err)
	}
	if err := claim(&Directory{ID: "1", Place: "c:/moved"}); err != nil {
		t.Errorf("moved: %v", err)
	}
	if err := claim(&Directory{ID: "3", Place: "c:/moved"}); err != nil {
		t.Errorf("removed and made anew: %v", err)
	}
	if err := claim(first); !errors.Is(err, ErrTaken) {
		t.Errorf("error %v, want ErrTaken", err)
	}
}

// TestMachinesEnd is of managers in pods, whose machines end with them: the
// second waits for the end of the first.
func TestMachinesEnd(t *testing.T) {
	c := newCluster(t)
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	claim := func(ctx context.Context, d *Directory) error {
		_, err := TakeCluster(ctx, ClusterOptions{
			Client: c, Namespace: "x", Directory: d, MachinesEnd: true, Log: logr.Discard(),
			Now: func() time.Time { return now }, Every: 10 * time.Millisecond,
		})
		return err
	}
	if err := claim(t.Context(), &Directory{ID: "1", Place: "pod-1:/data"}); err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	second := &Directory{ID: "2", Place: "pod-2:/data"}
	if err := claim(waiting, second); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "pod-1:/data") {
		t.Errorf("error %v, want that it waited for the first", err)
	}
	now = now.Add(time.Hour)
	if err := claim(t.Context(), second); err != nil {
		t.Errorf("long after the first: %v", err)
	}
}

// TestTakenOver has a person give the cluster to another while a manager runs.
func TestTakenOver(t *testing.T) {
	c := newCluster(t)
	failing := make(chan error, 1)
	flaky := interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, w client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			select {
			case err := <-failing:
				return err
			default:
				return w.Get(ctx, key, o, opts...)
			}
		},
	})
	failing <- errors.New("the cluster is not up yet")
	o := ClusterOptions{Client: flaky, Namespace: "x", Directory: &Directory{ID: "1", Place: "a:/one"}, Log: logr.Discard(), Every: 10 * time.Millisecond}
	cluster, err := TakeCluster(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cluster.Start(t.Context()) }()
	failing <- errors.New("the cluster is away for a moment")
	lease := &coordinationv1.Lease{}
	lease.Name, lease.Namespace = LeaseName, "x"
	other := ClusterOptions{Client: c, Namespace: "x", Directory: &Directory{ID: "2", Place: "b:/two"}, Log: logr.Discard()}
	deadline := time.Now().Add(time.Minute)
	for { // the first may make it again in between
		if err := client.IgnoreNotFound(c.Delete(t.Context(), lease)); err != nil {
			t.Fatal(err)
		}
		if _, err := TakeCluster(t.Context(), other); err == nil {
			break
		} else if !errors.Is(err, ErrTaken) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if err := <-ended; !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "b:/two") {
		t.Errorf("the first ended with %v", err)
	}
}
