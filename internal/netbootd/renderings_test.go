// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rendered makes a request for a file whose rendering takes a while.
func rendered(ctx context.Context, q *renderings, uid string, do func()) error {
	leave, err := q.enter(ctx, uid)
	if err != nil {
		return err
	}
	defer leave()
	return q.render(ctx, do)
}

func TestRenderingsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newRenderings()
		var mu sync.Mutex
		running, most := map[string]int{}, 0
		const machines, requests = 50, maxInLine
		var done sync.WaitGroup
		for n := range machines * requests {
			uid := idleUID(n % machines)
			done.Go(func() {
				err := rendered(t.Context(), q, uid, func() {
					mu.Lock()
					running[uid]++
					most = max(most, len(running))
					if running[uid] > 1 {
						t.Errorf("%s: got %d renderings at a time, want 1", uid, running[uid])
					}
					mu.Unlock()
					time.Sleep(time.Second)
					mu.Lock()
					delete(running, uid)
					mu.Unlock()
				})
				if err != nil {
					t.Errorf("%s: got error %v, want none", uid, err)
				}
			})
		}
		done.Wait()
		if most != maxRenderings {
			t.Errorf("got at most %d renderings at a time, want %d", most, maxRenderings)
		}
		if len(q.lines) != 0 || q.extra != 0 || len(q.slots) != 0 {
			t.Errorf("at the end: got %d machines, %d requests and %d renderings, want none", len(q.lines), q.extra, len(q.slots))
		}
	})
}

// A machine that makes hundreds of requests has one rendering before that of another
// machine, and few requests that wait.
func TestFloodOfRenderingsDelaysOthersByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newRenderings()
		const took = 5 * time.Second
		slow := func() { time.Sleep(took) }
		var mu sync.Mutex
		refused := 0
		var done sync.WaitGroup
		for n := range 600 {
			uid := fmt.Sprintf("hostile-%d", n%maxRenderings)
			done.Go(func() {
				if rendered(t.Context(), q, uid, slow) != nil {
					mu.Lock()
					refused++
					mu.Unlock()
				}
			})
		}
		synctest.Wait()
		if want := 600 - maxRenderings*maxInLine; refused != want {
			t.Errorf("got %d requests refused at once, want %d", refused, want)
		}
		start := time.Now()
		if err := rendered(t.Context(), q, "honest", func() {}); err != nil || time.Since(start) > took {
			t.Errorf("another machine: got error %v after %v, want none after %v", err, time.Since(start), took)
		}
		done.Wait()
	})
}

// However many machines have many requests, each may make one.
func TestFirstRequestIsNeverRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newRenderings()
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		waiting := 0
		var done sync.WaitGroup
		for n := range 2000 {
			uid := idleUID(n / (2 * maxInLine))
			done.Go(func() {
				line := q.join(uid)
				if line == nil {
					return
				}
				mu.Lock()
				waiting++
				mu.Unlock()
				<-ctx.Done()
				q.quit(uid, line)
			})
		}
		synctest.Wait()
		if want := 2000/(2*maxInLine) + maxExtra; waiting != want {
			t.Errorf("got %d requests that wait, want %d", waiting, want)
		}
		if line := q.join("another"); line == nil {
			t.Error("the first request of another machine: got it refused, want it to wait")
		}
		cancel()
		done.Wait()
	})
}

// deadlineRecorder records the deadlines that a handler sets.
type deadlineRecorder struct {
	*httptest.ResponseRecorder
	mu          sync.Mutex
	read, write time.Time
}

func (d *deadlineRecorder) SetReadDeadline(at time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.read = at
	return nil
}

func (d *deadlineRecorder) SetWriteDeadline(at time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.write = at
	return nil
}

// requested makes a request of the machine of fuzzHandler in the background.
func requested(t *testing.T, h http.Handler, done *sync.WaitGroup) *deadlineRecorder {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/m/"+fuzzSeed+"/ci/user-data", http.NoBody)
	r.RemoteAddr = "10.0.0.11:1234"
	w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
	done.Go(func() { h.ServeHTTP(w, r) })
	return w
}

// A request that waits to be rendered does so without the limits of a request, but not for
// ever, and of many requests of a machine few wait.
func TestRequestsWaitToBeRendered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := fuzzHandler(t)
		h := lab.mux()
		busy := func(w *deadlineRecorder) {
			t.Helper()
			if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "5" {
				t.Errorf("got status %d, Retry-After %q; want 503 and 5", w.Code, w.Header().Get("Retry-After"))
			}
		}
		block := func() (release func()) {
			for range maxRenderings {
				lab.renderings.slots <- struct{}{}
			}
			return func() {
				for range maxRenderings {
					<-lab.renderings.slots
				}
			}
		}

		release := block()
		var waiting, refused sync.WaitGroup
		var first []*deadlineRecorder
		for range maxInLine {
			first = append(first, requested(t, h, &waiting))
			synctest.Wait()
		}
		for range 300 {
			w := requested(t, h, &refused)
			refused.Wait()
			busy(w)
		}
		for _, w := range first {
			if !w.read.IsZero() {
				t.Errorf("while it waits: got a limit for reading the request at %v, want none", w.read)
			}
		}
		time.Sleep(renderWait - time.Second)
		release()
		waiting.Wait()
		for _, w := range first {
			if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), fuzzSecret) {
				t.Errorf("after the wait: got %d %s, want 200 and the user-data", w.Code, w.Body)
			}
			if !w.read.After(time.Now()) || !w.write.After(time.Now()) {
				t.Errorf("after the wait: got limits at %v and %v, want them after %v", w.read, w.write, time.Now())
			}
		}

		release = block()
		w := requested(t, h, &waiting)
		start := time.Now()
		waiting.Wait()
		busy(w)
		if took := time.Since(start); took != renderWait {
			t.Errorf("got the answer after %v, want it after %v", took, renderWait)
		}
		release()
		if len(lab.renderings.lines) != 0 {
			t.Errorf("at the end: got %d machines with requests, want none", len(lab.renderings.lines))
		}
	})
}
