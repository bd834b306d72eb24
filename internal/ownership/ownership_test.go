// SPDX-License-Identifier: Apache-2.0

package ownership

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
	d, err := AcquireDirectory(dir)
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

func TestAcquireDirectory(t *testing.T) {
	dir := t.TempDir()
	first := take(t, dir)
	_, err := AcquireDirectory(dir)
	for _, want := range []string{"another manager", fmt.Sprintf("process %d", os.Getpid()), dir, "--data-dir"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("AcquireDirectory of a locked directory = %v, want an error with %q", err, want)
		}
	}
	release(t, first)
	second := take(t, dir)
	if second.ID != first.ID || second.ID == "" || second.Location != first.Location {
		t.Errorf("got directory %+v, want %+v", second, first)
	}
	release(t, second)
	other := take(t, t.TempDir())
	defer release(t, other)
	if other.ID == first.ID {
		t.Errorf("got ID %q for two directories, want different ones", other.ID)
	}
	for _, name := range []string{lockName, idName} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v; want mode 0600", name, info, err)
		}
	}
	// The lock holds even if the content of its file is damaged.
	third := take(t, dir)
	defer release(t, third)
	if err := os.WriteFile(filepath.Join(dir, lockName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := AcquireDirectory(dir); err == nil || !strings.Contains(err.Error(), "another manager uses") {
		t.Errorf("AcquireDirectory with a damaged lock file = %v, want an error without the owner", err)
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

func TestAcquireCluster(t *testing.T) {
	c := newCluster(t)
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	acquire := func(d *Directory) error {
		_, err := AcquireCluster(t.Context(), ClusterOptions{
			Client: c, Namespace: "x", Directory: d, Log: logr.Discard(),
			Now: func() time.Time { return now },
		})
		return err
	}
	first := &Directory{ID: "1", Location: "a:/one"}
	for range 2 { // the second time as after a restart
		if err := acquire(first); err != nil {
			t.Fatal(err)
		}
	}
	second := &Directory{ID: "2", Location: "b:/two"}
	now = now.Add(30 * time.Second)
	running := "a:/one, whose manager is running (lease renewed 30s ago)"
	if err := acquire(second); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), running) {
		t.Errorf("got error %v, want the location of the running manager", err)
	}
	now = now.Add(time.Hour)
	if err := acquire(second); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "kubectl -n x delete lease manager.pxelab.io") {
		t.Errorf("got error %v, want how to release the cluster", err)
	}
	if err := acquire(&Directory{ID: "1", Location: "c:/moved"}); err != nil {
		t.Errorf("AcquireCluster with a moved directory = %v, want nil", err)
	}
}

// TestAcquireClusterOfOneName has hosts whose names and data directories are equal.
func TestAcquireClusterOfOneName(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	holder := Directory{ID: "1", Location: "debian:/root/data", Host: "h1", Instance: "boot1/1/1"}
	for name, tt := range map[string]struct {
		change func(*Directory)
		// after is how long ago the holder renewed the Lease.
		after time.Duration
		// want is "now", "later" or "never".
		want string
	}{
		"same directory":                        {after: time.Second, want: "now"},
		"another host":                          {func(d *Directory) { *d = Directory{ID: "2", Location: d.Location, Host: "h2"} }, time.Second, "never"},
		"another host, lease expired":           {func(d *Directory) { *d = Directory{ID: "2", Location: d.Location, Host: "h2"} }, time.Hour, "never"},
		"another host of unknown identity":      {func(d *Directory) { *d = Directory{ID: "2", Location: d.Location} }, time.Hour, "never"},
		"recreated directory":                   {func(d *Directory) { d.ID, d.Instance = "2", "boot1/1/2" }, time.Second, "never"},
		"recreated directory, lease expired":    {func(d *Directory) { d.ID, d.Instance = "2", "boot1/1/2" }, time.Hour, "now"},
		"rebooted host":                         {func(d *Directory) { d.Instance = "boot2/1/1" }, time.Second, "later"},
		"rebooted host, lease expired":          {func(d *Directory) { d.Instance = "boot2/1/1" }, time.Hour, "now"},
		"copied directory":                      {func(d *Directory) { d.Location, d.Instance = "debian:/root/copy", "boot1/1/2" }, time.Second, "later"},
		"clone of the host":                     {func(d *Directory) { d.Instance = "boot3/1/1" }, time.Second, "later"},
		"moved to another host, lease expired":  {func(d *Directory) { d.Location, d.Host, d.Instance = "b:/data", "h2", "boot4/1/1" }, time.Hour, "now"},
		"pod of another name on the same claim": {func(d *Directory) { d.Location = "pod-2:/data" }, time.Second, "now"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			at := now
			o := ClusterOptions{Client: c, Namespace: "x", Directory: &holder, Log: logr.Discard(), Now: func() time.Time { return at }}
			if _, err := AcquireCluster(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			at = at.Add(tt.after)
			other := holder
			if tt.change != nil {
				tt.change(&other)
			}
			o.Directory = &other
			err := (&Cluster{o: withDefaults(o)}).renew(t.Context())
			got := "never"
			switch {
			case err == nil:
				got = "now"
			case errors.Is(err, errWait):
				got = "later"
			case !errors.Is(err, ErrTaken):
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got %s (error %v), want %s", got, err, tt.want)
			}
		})
	}
}

// TestCopyOfDirectory starts a manager on a copy of a directory whose manager runs.
func TestCopyOfDirectory(t *testing.T) {
	c := newCluster(t)
	first := &Directory{ID: "1", Location: "a:/data", Instance: "boot1/1/1"}
	o := ClusterOptions{Client: c, Namespace: "x", Directory: first, Log: logr.Discard(), RenewInterval: 10 * time.Millisecond}
	running, err := AcquireCluster(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- running.Start(ctx) }()
	o.Directory = &Directory{ID: "1", Location: "b:/data", Instance: "boot2/1/1"}
	if _, err := AcquireCluster(t.Context(), o); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "a copy of the other") {
		t.Errorf("got error %v, want ErrTaken because of a copy", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the first manager ended with %v, want it to keep the cluster", err)
	}
}

// TestEpochIncreases sets the clock back, and deletes the Lease, between processes.
func TestEpochIncreases(t *testing.T) {
	c := newCluster(t)
	dir := t.TempDir()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	acquire := func() int64 {
		t.Helper()
		d := take(t, dir)
		defer release(t, d)
		cluster, err := AcquireCluster(t.Context(), ClusterOptions{
			Client: c, Namespace: "x", Directory: d, Log: logr.Discard(), Now: func() time.Time { return now },
		})
		if err != nil {
			t.Fatal(err)
		}
		return cluster.Epoch()
	}
	last := acquire()
	if want := now.UnixMicro(); last != want {
		t.Errorf("first process: got epoch %d, want %d", last, want)
	}
	lease := &coordinationv1.Lease{}
	lease.Name, lease.Namespace = LeaseName, "x"
	for name, before := range map[string]func(){
		"the clock is set back": func() {},
		"the Lease is deleted": func() {
			if err := c.Delete(t.Context(), lease); err != nil {
				t.Fatal(err)
			}
		},
		"the record is damaged": func() {
			if err := os.WriteFile(filepath.Join(dir, epochName), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		now = now.Add(-time.Hour)
		before()
		epoch := acquire()
		if epoch <= last {
			t.Errorf("%s: got epoch %d, want one above %d", name, epoch, last)
		}
		last = epoch
	}
	if info, err := os.Stat(filepath.Join(dir, epochName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("record: got %v, %v; want mode 0600", info, err)
	}
	now = now.Add(24 * time.Hour)
	if got, want := acquire(), now.UnixMicro(); got != want {
		t.Errorf("after the clock is right again: got epoch %d, want %d", got, want)
	}
}

func TestOwns(t *testing.T) {
	c := newCluster(t)
	mine := &Directory{ID: "1", Location: "a:/one", Host: "h"}
	check := func(d *Directory, want bool) {
		t.Helper()
		if got, err := d.Owns(t.Context(), c, "x"); got != want || err != nil {
			t.Errorf("%+v: got %t, %v, want %t", d, got, err, want)
		}
	}
	check(mine, false) // no manager has acquired the cluster
	if _, err := AcquireCluster(t.Context(), ClusterOptions{Client: c, Namespace: "x", Directory: mine, Log: logr.Discard()}); err != nil {
		t.Fatal(err)
	}
	check(mine, true)
	check(&Directory{ID: "1", Location: "c:/moved"}, true)
	check(&Directory{ID: "3", Location: "a:/one", Host: "h"}, true) // recreated
	check(&Directory{ID: "3", Location: "a:/one", Host: "i"}, false)
	check(&Directory{ID: "2", Location: "b:/two"}, false)
	failing := interceptor.NewClient(c, interceptor.Funcs{Get: func(
		context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption,
	) error {
		return errors.New("connection refused")
	}})
	if owns, err := mine.Owns(t.Context(), failing, "x"); owns || err == nil {
		t.Errorf("unreachable cluster: got %t, %v, want an error", owns, err)
	}
}

// TestAcquireClusterWaitsForExpiry covers managers in pods, whose machines end with
// them: the second waits until the Lease of the first has expired.
func TestAcquireClusterWaitsForExpiry(t *testing.T) {
	c := newCluster(t)
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	acquire := func(ctx context.Context, d *Directory) error {
		_, err := AcquireCluster(ctx, ClusterOptions{
			Client: c, Namespace: "x", Directory: d, Ephemeral: true, Log: logr.Discard(),
			Now: func() time.Time { return now }, RenewInterval: 10 * time.Millisecond,
		})
		return err
	}
	if err := acquire(t.Context(), &Directory{ID: "1", Location: "pod-1:/data"}); err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	second := &Directory{ID: "2", Location: "pod-2:/data"}
	if err := acquire(waiting, second); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "pod-1:/data") {
		t.Errorf("got error %v, want a timeout that names the first", err)
	}
	now = now.Add(time.Hour)
	if err := acquire(t.Context(), second); err != nil {
		t.Errorf("AcquireCluster after expiry = %v, want nil", err)
	}
}

// TestClusterTakenOver deletes the Lease of a running manager, so that another one
// takes the cluster.
func TestClusterTakenOver(t *testing.T) {
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
	o := ClusterOptions{
		Client: flaky, Namespace: "x", Directory: &Directory{ID: "1", Location: "a:/one"},
		Log: logr.Discard(), RenewInterval: 10 * time.Millisecond,
	}
	cluster, err := AcquireCluster(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cluster.Start(t.Context()) }()
	failing <- errors.New("the cluster is temporarily unreachable")
	lease := &coordinationv1.Lease{}
	lease.Name, lease.Namespace = LeaseName, "x"
	other := ClusterOptions{Client: c, Namespace: "x", Directory: &Directory{ID: "2", Location: "b:/two"}, Log: logr.Discard()}
	deadline := time.Now().Add(time.Minute)
	for { // the first may create the Lease again in between
		if err := client.IgnoreNotFound(c.Delete(t.Context(), lease)); err != nil {
			t.Fatal(err)
		}
		if _, err := AcquireCluster(t.Context(), other); err == nil {
			break
		} else if !errors.Is(err, ErrTaken) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if err := <-ended; !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "b:/two") {
		t.Errorf("Start of the first = %v, want ErrTaken with b:/two", err)
	}
}
