// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// flaky is a file server with injected failures.
type flaky struct {
	mu      sync.Mutex
	content []byte
	etag    string
	// bad is called for each request with its number, starting at 0. It returns
	// true if it has handled the request.
	bad      func(n int, w http.ResponseWriter, r *http.Request) bool
	requests []string // the Range headers
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	n := len(f.requests)
	f.requests = append(f.requests, r.Header.Get("Range"))
	content, etag, bad := f.content, f.etag, f.bad
	f.mu.Unlock()
	if bad != nil && bad(n, w, r) {
		return
	}
	if etag != "" {
		w.Header().Set("ETag", etag)
	}
	http.ServeContent(w, r, "", time.Unix(1e9, 0), strings.NewReader(string(content)))
}

// set changes the server between calls.
func (f *flaky) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// ranges returns the Range header of each request so far.
func (f *flaky) ranges() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// cut announces the content starting at offset from, sends n bytes of it and
// resets the connection.
func cut(w http.ResponseWriter, content []byte, from, n int, header map[string]string) {
	for k, v := range header {
		w.Header().Set(k, v)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(content)-from))
	status := http.StatusOK
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
		status = http.StatusPartialContent
	}
	w.WriteHeader(status)
	_, _ = w.Write(content[from : from+n])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func rangeStart(r *http.Request) int {
	s, _ := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	n, _ := strconv.Atoi(strings.TrimSuffix(s, "-"))
	return n
}

func TestEnsureSurvivesServerFailures(t *testing.T) {
	content, other := noise(3<<20, 1), noise(3<<20, 2)
	tests := map[string]struct {
		etag    string
		bad     func(n int, w http.ResponseWriter, r *http.Request) bool
		resumed int // minimum number of requests with a range
	}{
		"good": {},
		"resets twice": {etag: `"a"`, resumed: 2, bad: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n < 2 {
				cut(w, content, rangeStart(r), 100_000, map[string]string{"ETag": `"a"`})
			}
			return false
		}},
		"many resets with progress": {etag: `"a"`, resumed: 2, bad: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if at := rangeStart(r); at+1<<20 < len(content) {
				cut(w, content, at, 1<<20, map[string]string{"ETag": `"a"`})
			}
			return false
		}},
		"busy": {bad: func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n < 2 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n < 2
		}},
		"ignores ranges": {etag: `"a"`, bad: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				cut(w, content, 0, 1000, map[string]string{"ETag": `"a"`})
			}
			r.Header.Del("Range")
			return false
		}},
		"sends another range": {etag: `"a"`, bad: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				cut(w, content, 0, 1000, map[string]string{"ETag": `"a"`})
			}
			if n == 1 {
				cut(w, content, 500, 1000, map[string]string{"ETag": `"a"`})
			}
			return false
		}},
		"sends an invalid range": {bad: func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 0 {
				cut(w, content, 0, 1000, nil)
			}
			if n == 1 {
				w.Header().Set("Content-Range", "bytes many/few")
				w.WriteHeader(http.StatusPartialContent)
			}
			return n == 1
		}},
		"file changed, ETag differs": {etag: `"new"`, bad: func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 0 {
				cut(w, other, 0, 100_000, map[string]string{"ETag": `"old"`})
			}
			return false
		}},
		"file changed, no validators": {bad: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				cut(w, other, 0, 100_000, nil)
			}
			return false
		}},
		"file changed, ignores If-Range": {etag: `"new"`, bad: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				cut(w, other, 0, 100_000, map[string]string{"ETag": `"old"`})
			}
			r.Header.Del("If-Range")
			return false
		}},
		"was longer": {bad: func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 0 {
				cut(w, append(other, other...), 0, 4<<20, nil)
			}
			return false
		}},
		"sends no length": {bad: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write(content[:1000])
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(content[1000:])
			return true
		}},
		"sends no length and resets": {bad: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 0 {
				return false
			}
			_, _ = w.Write(content[:100_000])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}},
		"stalls": {etag: `"a"`, bad: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				w.Header().Set("ETag", `"a"`)
				w.Header().Set("Content-Length", strconv.Itoa(len(content)))
				_, _ = w.Write(content[:1<<20])
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
			return n == 0
		}},
		"drips": {etag: `"a"`, bad: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 0 {
				return false
			}
			w.Header().Set("ETag", `"a"`)
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			drip := time.NewTicker(10 * time.Millisecond)
			defer drip.Stop()
			for i := 0; ; i++ {
				_, _ = w.Write(content[i : i+1])
				_ = http.NewResponseController(w).Flush()
				select {
				case <-drip.C:
				case <-r.Context().Done():
					return true
				}
			}
		}},
		"redirects": {bad: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/image" {
				http.Redirect(w, r, "/elsewhere", http.StatusFound)
				return true
			}
			return false
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			f := &flaky{content: content, etag: tc.etag, bad: tc.bad}
			url := serve(t, f.ServeHTTP)
			s := openStore(t, t.TempDir()+"/store", func(o *Options) {
				if name == "stalls" || name == "drips" {
					o.StallTimeout = 300 * time.Millisecond
				}
			})
			a, err := s.Ensure(t.Context(), Source{URL: url + "/image", Checksum: sha256Of(content)}, nil)
			wantContent(t, a, err, content)
			resumed := 0
			for _, r := range f.ranges() {
				if r != "" {
					resumed++
				}
			}
			if resumed < tc.resumed {
				t.Errorf("%d of %d requests had a range, want at least %d", resumed, len(f.ranges()), tc.resumed)
			}
			noLeftovers(t, s)
		})
	}
}

func TestEnsureReportsServerFailures(t *testing.T) {
	content := noise(10_000, 1)
	tests := map[string]struct {
		bad    func(n int, w http.ResponseWriter, r *http.Request) bool
		reason Reason
		text   string
	}{
		"not found": {func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusNotFound)
			return true
		}, ReasonHTTPStatus, "correct the url"},
		"forbidden": {func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		}, ReasonHTTPStatus, "does not require authentication"},
		"always busy": {func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}, ReasonHTTPStatus, "may recover"},
		"announces more than the file has": {func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if at := rangeStart(r); at < 5000 {
				cut(w, content, at, 5000-at, map[string]string{"ETag": `"a"`})
			}
			panic(http.ErrAbortHandler)
		}, ReasonUnreachable, "cannot be reached"},
		"sends one byte at a time": {func(_ int, w http.ResponseWriter, r *http.Request) bool {
			cut(w, content, rangeStart(r), 1, map[string]string{"ETag": `"a"`})
			return true
		}, ReasonTruncated, "bytes"},
		"announces less than the file has": {func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "5000")
			_, _ = w.Write(content[:5000])
			return true
		}, ReasonChecksumMismatch, "correct the checksum"},
		"another file": {func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write([]byte("<html>log in</html>"))
			return true
		}, ReasonChecksumMismatch, "correct the checksum"},
		"too large": {func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "999999999")
			return true
		}, ReasonTooLarge, "at most"},
		"too large without a length": {func(_ int, w http.ResponseWriter, r *http.Request) bool {
			for r.Context().Err() == nil {
				if _, err := w.Write(content); err != nil {
					return true
				}
			}
			return true
		}, ReasonTooLarge, "at most"},
		"redirects in a circle": {func(_ int, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "/image", http.StatusFound)
			return true
		}, ReasonUnreachable, "redirects"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			f := &flaky{content: content, bad: tc.bad}
			url := serve(t, f.ServeHTTP)
			s := openStore(t, t.TempDir()+"/store", func(o *Options) { o.MaxSize = 1 << 20 })
			src := Source{URL: url + "/image", Checksum: sha256Of(content)}
			_, err := s.Ensure(t.Context(), src, nil)
			wantReason(t, err, tc.reason, tc.text)
			if _, ok := s.Get(src.Checksum); ok {
				t.Error("Get of content that failed verification: got true, want false")
			}
			// The same source succeeds once the server has recovered.
			f.set(func() { f.bad = nil })
			a, err := s.Ensure(t.Context(), src, nil)
			wantContent(t, a, err, content)
		})
	}
}

func TestEnsureReportsUnreachableServer(t *testing.T) {
	url := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	s := newStore(t)
	_, err := s.Ensure(t.Context(), Source{URL: strings.Replace(url, "://", "://user:secret@", 1) + "/f", Checksum: sha256Of(nil)}, nil)
	wantReason(t, err, ReasonUnreachable, "cannot be reached")
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("got error %q, want one without the password", err)
	}
	var e *Error
	if errors.As(err, &e); !e.Transient() {
		t.Errorf("got permanent error %v, want a transient one", err)
	}
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// enough calls then on the first read after left bytes.
type enough struct {
	io.ReadCloser
	left int
	then func()
}

func (e *enough) Read(b []byte) (int, error) {
	if e.left <= 0 {
		e.then()
	}
	n, err := e.ReadCloser.Read(b)
	e.left -= n
	return n, err
}

func TestEnsureResumesDownloadOfEarlierCall(t *testing.T) {
	content := noise(1<<20, 1)
	dir := t.TempDir() + "/store"
	f := &flaky{content: content, etag: `"a"`}
	f.bad = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 0 {
			w.Header().Set("ETag", `"a"`)
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			_, _ = w.Write(content[:700_000])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
		return n == 0
	}
	url := serve(t, f.ServeHTTP)
	src := Source{URL: url + "/image", Checksum: sha512Of(content)}
	ctx, cancel := context.WithCancel(t.Context())
	transport, err := newTransport(Network{Allow: loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	first := openStore(t, dir, func(o *Options) {
		o.Client = &http.Client{Transport: tripper(func(r *http.Request) (*http.Response, error) {
			resp, err := transport.RoundTrip(r)
			if err == nil {
				resp.Body = &enough{ReadCloser: resp.Body, left: 500_000, then: cancel}
			}
			return resp, err
		})}
	})
	_, err = first.Ensure(ctx, src, nil)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want %v", err, context.Canceled)
	}
	a, err := openStore(t, dir, nil).Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)
	all := f.ranges()
	if last := all[len(all)-1]; !strings.HasPrefix(last, "bytes=") || last == "bytes=0-" {
		t.Errorf("the second call requested range %q, want one that resumes the download", last)
	}
}

func TestConcurrentCallsShareOneDownload(t *testing.T) {
	content := noise(100_000, 1)
	var served atomic.Int32
	release := make(chan struct{})
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		_, _ = w.Write(content[:10])
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = w.Write(content[10:])
	})
	dir := t.TempDir() + "/store"
	// Two stores behave like two processes.
	stores := []*Store{openStore(t, dir, nil), openStore(t, dir, nil)}
	src := Source{URL: url + "/image", Checksum: sha256Of(content)}
	gaveUp, giveUp := context.WithCancel(t.Context())
	var wg, started sync.WaitGroup
	errs := make(chan error, 20)
	for i := range 20 {
		ctx := t.Context()
		if i == 0 {
			ctx = gaveUp // the caller that started the download leaves, the others stay
		}
		started.Add(1)
		var once sync.Once
		wg.Go(func() {
			a, err := stores[i%2].Ensure(ctx, src, func(Progress) { once.Do(started.Done) })
			if i != 0 && (err != nil || a.Digest != src.Checksum) {
				errs <- fmt.Errorf("caller %d: got %+v, %w; want %s", i, a, err, src.Checksum)
			}
			if i == 0 && !errors.Is(err, context.Canceled) {
				errs <- fmt.Errorf("caller 0: got %w, want %w", err, context.Canceled)
			}
		})
		if i == 0 {
			started.Wait()
		}
	}
	started.Wait()
	giveUp()
	close(release)
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if n := served.Load(); n != 1 {
		t.Errorf("got %d downloads, want 1", n)
	}
}

func TestEnsureReportsFullDisk(t *testing.T) {
	content := noise(10_000, 1)
	url := serve(t, (&flaky{content: content}).ServeHTTP)
	s := newStore(t)
	s.freeFor = func(string) (int64, error) { return 4000, nil }
	_, err := s.Ensure(t.Context(), Source{URL: url + "/f", Checksum: sha256Of(content)}, nil)
	wantReason(t, err, ReasonNoSpace, "free 6000 bytes")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		return // not a Linux system
	}
	defer func() { _ = full.Close() }()
	_, err = full.Write([]byte{1})
	wantReason(t, noSpace(fmt.Errorf("writing: %w", err), s.path("partial", "x"), 1<<62), ReasonNoSpace, "bytes are needed")
}

func TestProgress(t *testing.T) {
	content := noise(2<<20, 1)
	url := serve(t, (&flaky{content: content}).ServeHTTP)
	s := newStore(t)
	var stages []Stage
	_, err := s.Ensure(t.Context(), Source{URL: url + "/f", Checksum: sha256Of(content)}, func(p Progress) {
		stages = append(stages, p.Stage)
		if p.BytesDone > p.BytesTotal && p.BytesTotal > 0 {
			t.Errorf("got %d bytes done, want at most the total of %d", p.BytesDone, p.BytesTotal)
		}
		if percent := p.Percent(); percent < 0 || percent > 100 {
			t.Errorf("got %v percent of %+v, want 0 to 100", percent, p)
		}
	})
	if err != nil || len(stages) == 0 {
		t.Errorf("got error %v, stages %v; want at least one stage", err, stages)
	}
	m := newMeter(func(Progress) {})
	now := time.Unix(0, 0)
	m.now = func() time.Time { return now }
	m.stage(StageDownloading, 500, 10_000)
	for i := range 20 {
		now = now.Add(time.Second)
		m.at(500 + int64(i+1)*100)
	}
	if m.p.Rate < 99 || m.p.Rate > 101 {
		t.Errorf("got rate %v, want 99 to 101", m.p.Rate)
	}
}
