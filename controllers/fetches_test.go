// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/imageformat"
	"github.com/pxelab/pxelab/internal/qemuimg"
)

// Downloads that never end leave room for those of other namespaces, and show that they
// wait.
func TestFetchesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		slots := newWorkSlots()
		var running, waiting atomic.Int64
		stuck := func(ctx context.Context, _ func(artifact.Progress)) (content.Blob, error) {
			running.Add(1)
			<-ctx.Done()
			return content.Blob{}, ctx.Err()
		}
		const started = 2 * fetchSlots
		ended := make(chan error, started)
		for i := range started {
			work := inSlot(slots, "hostile", fmt.Sprint("profile-", i), stuck)
			go func() {
				_, err := work(ctx, func(p artifact.Progress) {
					if p.Stage == artifact.StageWaiting {
						waiting.Add(1)
					}
				})
				ended <- err
			}()
			synctest.Wait()
		}
		time.Sleep(2 * waitingAfter)
		synctest.Wait()
		if r, w := running.Load(), waiting.Load(); r != fetchSlots-1 || w != started-r {
			t.Errorf("got %d downloads that run and %d that show that they wait, want %d and %d", r, w, fetchSlots-1, started-fetchSlots+1)
		}
		want := content.Blob{Digest: "d", Size: 1}
		got, err := inSlot(slots, "other", "profile", func(context.Context, func(artifact.Progress)) (content.Blob, error) {
			return want, nil
		})(ctx, func(artifact.Progress) {})
		if got != want || err != nil {
			t.Errorf("a download of another namespace: got %+v, error %v, want %+v at once", got, err, want)
		}
		cancel()
		for range started {
			if err := <-ended; err == nil {
				t.Error("a cancelled download: got no error, want one")
			}
		}
	})
}

// Conversions of one namespace leave room for those of others.
func TestConversionsAreFairBetweenNamespaces(t *testing.T) {
	images := t.TempDir()
	store, err := artifact.Open(artifact.Options{Dir: t.TempDir(), ImagesDir: images})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	disks, err := qemuimg.New(qemuimg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	library := content.New(content.Options{Store: store, Disks: disks, ImagesDir: images})
	slots := workSlots{task.NewSlots(fetchSlots), task.NewSlots(3)}
	for _, part := range []string{"a", "b"} {
		release, err := slots.conversions.Acquire(t.Context(), "hostile", part)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
	}
	stream := func(ctx context.Context, tenant string, report func(artifact.Progress)) error {
		image := bytes.Repeat([]byte(tenant[:1]), 1<<20)
		if err := os.WriteFile(filepath.Join(images, tenant), image, 0o600); err != nil {
			return err
		}
		src := artifact.Source{Path: tenant, Checksum: fmt.Sprintf("sha256:%x", sha256.Sum256(image)), Format: imageformat.Raw}
		_, err := inSlot(slots, tenant, "profile", func(ctx context.Context, report func(artifact.Progress)) (content.Blob, error) {
			return library.Stream(ctx, src, report)
		})(ctx, report)
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting, ended := make(chan struct{}), make(chan error, 1)
	shown := sync.OnceFunc(func() { close(waiting) })
	go func() {
		ended <- stream(ctx, "hostile", func(p artifact.Progress) {
			if p.Stage == artifact.StageWaiting {
				shown()
			}
		})
	}()
	select {
	case <-waiting:
	case err := <-ended:
		t.Fatalf("a third conversion of a namespace: got error %v, want it to wait", err)
	}
	if err := stream(t.Context(), "other", func(artifact.Progress) {}); err != nil {
		t.Errorf("a conversion of another namespace: got error %v, want none", err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a cancelled conversion: got no error, want one")
	}
}
