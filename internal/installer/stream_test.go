// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/imagestream"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// memoryDisk is a Target that initially contains old data.
type memoryDisk struct {
	mu   sync.Mutex
	data []byte
	err  error
}

func newMemoryDisk(size int) *memoryDisk {
	return &memoryDisk{data: bytes.Repeat([]byte{0xA5}, size)}
}

func (d *memoryDisk) Prepare(_ context.Context, h *imagestream.Header) error {
	clear(d.data[:h.VirtualSize])
	return nil
}

func (d *memoryDisk) WriteChunk(_, _ int64, segments []imagestream.Segment) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range segments {
		copy(d.data[s.Offset:], s.Data)
	}
	return d.err
}

func (d *memoryDisk) ReadAt(p []byte, off int64) (int, error) { return copy(p, d.data[off:]), nil }
func (d *memoryDisk) Flush() error                            { return nil }

// sample returns an image of many frames, more than half of it zeros.
func sample(t *testing.T) (raw, blob []byte, h *imagestream.Header) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	raw = make([]byte, 3<<20+512)
	for at := 0; at < len(raw); at += 64 << 10 {
		if (at>>16)%3 != 1 {
			_, _ = random.Read(raw[at:min(len(raw), at+40<<10)])
		}
	}
	var dst writerAt
	h, err := imagestream.Write(context.Background(), &dst, bytes.NewReader(raw), int64(len(raw)), imagestream.Options{ChunkSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return raw, dst.b, h
}

type writerAt struct {
	mu sync.Mutex
	b  []byte
}

func (w *writerAt) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if need := int(off) + len(p); need > len(w.b) {
		w.b = append(w.b, make([]byte, need-len(w.b))...)
	}
	return copy(w.b[off:], p), nil
}

// cutter breaks the connection after left bytes.
type cutter struct {
	http.ResponseWriter
	left int64
}

func (c *cutter) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		panic(http.ErrAbortHandler)
	}
	n, err := c.ResponseWriter.Write(p)
	c.left -= int64(n)
	return n, err
}

func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL + "/m/token/")
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(base, ClientOptions{})
	t.Cleanup(c.Close)
	return c
}

func TestStream(t *testing.T) {
	raw, blob, h := sample(t)
	tag := `"` + h.Digest() + `"`
	content := func(w http.ResponseWriter, r *http.Request, b []byte) {
		w.Header().Set("ETag", tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
	damaged := bytes.Clone(blob)
	damaged[len(damaged)/2] ^= 1
	damagedIndex := bytes.Clone(blob)
	damagedIndex[70] ^= 1
	for name, c := range map[string]struct {
		// handler answers the nth request, counted from 0.
		handler func(n int, w http.ResponseWriter, r *http.Request)
		err     string
		corrupt bool
	}{
		"undisturbed": {handler: func(_ int, w http.ResponseWriter, r *http.Request) { content(w, r, blob) }},
		"repeatedly cut": {handler: func(n int, w http.ResponseWriter, r *http.Request) {
			if n < 6 {
				w = &cutter{ResponseWriter: w, left: int64(len(blob) / 9)}
			}
			content(w, r, blob)
		}},
		"server restarts": {handler: func(n int, w http.ResponseWriter, r *http.Request) {
			switch {
			case n == 1:
				content(&cutter{ResponseWriter: w, left: int64(len(blob) / 2)}, r, blob)
			case n < 4:
				http.Error(w, "starting", http.StatusServiceUnavailable)
			default:
				content(w, r, blob)
			}
		}},
		"server without ranges": {handler: func(n int, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", tag)
			if n == 0 {
				w = &cutter{ResponseWriter: w, left: int64(len(blob) / 2)}
			}
			_, _ = w.Write(blob)
		}},
		"frame damaged in transit": {handler: func(n int, w http.ResponseWriter, r *http.Request) {
			if n == 0 {
				content(w, r, damaged)
				return
			}
			content(w, r, blob)
		}},
		"frame damaged at the source": {
			handler: func(_ int, w http.ResponseWriter, r *http.Request) { content(w, r, damaged) },
			err:     "does not match its digest", corrupt: true,
		},
		"another image": {
			handler: func(_ int, w http.ResponseWriter, r *http.Request) { content(w, r, damagedIndex) },
			err:     "its header has digest", corrupt: true,
		},
		"image replaced during the transfer": {
			handler: func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 0 {
					content(&cutter{ResponseWriter: w, left: int64(len(blob) / 2)}, r, blob)
					return
				}
				w.Header().Set("ETag", `"sha256:other"`)
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
			},
			err: "the server now has image \"sha256:other\"",
		},
		"image truncated": {
			handler: func(_ int, w http.ResponseWriter, r *http.Request) { content(w, r, blob[:len(blob)/2]) },
			err:     "the server's image ends before byte",
		},
	} {
		for way, receive := range map[string]func(*Client, string, *memoryDisk) (int64, error){"written": transfer, "discarded": discard} {
			t.Run(name+", "+way, func(t *testing.T) {
				var requests atomic.Int64
				client := serve(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/m/token/image" {
						http.NotFound(w, r)
						return
					}
					c.handler(int(requests.Add(1))-1, w, r)
				})
				disk := newMemoryDisk(4 << 20)
				written, err := receive(client, h.Digest(), disk)
				if c.err != "" {
					if err == nil || !strings.Contains(err.Error(), c.err) {
						t.Fatalf("got error %v, want one that contains %q", err, c.err)
					}
					if got := errors.Is(err, imagestream.ErrCorrupt); got != c.corrupt {
						t.Fatalf("got error %v with ErrCorrupt %t, want %t", err, got, c.corrupt)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if written != h.DataBytes {
					t.Errorf("reported %d written bytes, want %d", written, h.DataBytes)
				}
				if last := disk.data[len(disk.data)-1]; last != 0xA5 {
					t.Errorf("last byte of the disk: got %#x, want 0xa5 as before", last)
				}
				if way == "written" && !bytes.Equal(disk.data[:len(raw)], raw) {
					t.Error("disk: got other bytes, want those of the image")
				}
			})
		}
	}
}

func transfer(c *Client, digest string, disk *memoryDisk) (int64, error) {
	ctx := context.Background()
	s, err := OpenStream(ctx, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		return c.Image(ctx, offset, digest)
	}, digest)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	var written atomic.Int64
	if err := s.WriteTo(ctx, disk, func(n int64) { written.Add(n) }); err != nil {
		return 0, err
	}
	return written.Load(), s.Verify(ctx, disk, nil)
}

// discard receives an image as transfer does, but writes it nowhere.
func discard(c *Client, digest string, _ *memoryDisk) (int64, error) {
	ctx := context.Background()
	s, err := OpenStream(ctx, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		return c.Image(ctx, offset, digest)
	}, digest)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	written := int64(0)
	err = s.Discard(ctx, func(n int64) { written += n })
	return written, err
}

func TestStreamReturnsDiskError(t *testing.T) {
	_, blob, h := sample(t)
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
	})
	disk := newMemoryDisk(4 << 20)
	disk.err = errors.New("medium error")
	if _, err := transfer(client, h.Digest(), disk); !errors.Is(err, disk.err) {
		t.Errorf("got error %v, want %v", err, disk.err)
	}
}

// lossyDisk loses a write.
type lossyDisk struct{ *memoryDisk }

func (d lossyDisk) WriteChunk(offset, length int64, segments []imagestream.Segment) error {
	if offset == 128<<10 {
		return nil
	}
	return d.memoryDisk.WriteChunk(offset, length, segments)
}

func TestVerifyFindsLostWrite(t *testing.T) {
	_, blob, h := sample(t)
	open := func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(blob[offset:])), nil
	}
	s, err := OpenStream(context.Background(), open, h.Digest())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	disk := lossyDisk{newMemoryDisk(4 << 20)}
	if err := s.WriteTo(context.Background(), disk, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	var mismatch *imagestream.MismatchError
	if err := s.Verify(context.Background(), disk, nil); !errors.As(err, &mismatch) || mismatch.Offset != 128<<10 {
		t.Errorf("got error %v, want a *MismatchError at offset %d", err, 128<<10)
	}
}

// panickyDisk panics, which must not end the process.
type panickyDisk struct{ *memoryDisk }

func (panickyDisk) WriteChunk(int64, int64, []imagestream.Segment) error { panic("fault") }

func TestPanicBecomesError(t *testing.T) {
	_, blob, h := sample(t)
	open := func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(blob[offset:])), nil
	}
	s, err := OpenStream(context.Background(), open, h.Digest())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.WriteTo(context.Background(), panickyDisk{newMemoryDisk(4 << 20)}, func(int64) {})
	const want = "the installer panicked: fault"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want %q", err, want)
	}
}

func TestReporter(t *testing.T) {
	var mu sync.Mutex
	var got []installerapi.Progress
	failures := 2
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var p installerapi.Progress
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if p.Stage == installerapi.StageFailed && failures > 0 {
			failures--
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		got = append(got, p)
		w.WriteHeader(http.StatusNoContent)
	})
	lines := make(chan string, 100)
	r := NewReporter(func(line string) { lines <- line })
	r.Enter(installerapi.StageStart, "before there is a server")
	r.SetAttempt("7")
	r.Start(client.Report)
	r.SetTotal(200)
	r.Enter(installerapi.StageWrite, "to vda")
	r.AddWritten(50)
	for line := range lines {
		if line == "pxelab: Write 25% (0/0 MB) to vda" {
			break
		}
	}
	r.Waiting("waiting for the server: gone")
	if p := r.Current(); p.Message != "waiting for the server: gone" || p.Waiting != p.Message {
		t.Errorf("got message %q and %q, want the reason for waiting", p.Message, p.Waiting)
	}
	if err := r.Finish(context.Background(), installerapi.StageFailed, "disk is on fire"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	want := installerapi.Progress{Attempt: "7", Stage: installerapi.StageFailed, BytesWritten: 50, BytesTotal: 200, Message: "disk is on fire"}
	if diff := cmp.Diff(want, got[len(got)-1]); diff != "" {
		t.Errorf("last report (-want +got):\n%s", diff)
	}
}

func TestPlanRetriesAndReportsReason(t *testing.T) {
	var n atomic.Int64
	var waited atomic.Value
	client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 1 {
			http.Error(w, "no configuration yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, `{"attempt":"a","hostname":"h","imageDigest":"sha256:x","someday":"more"}`)
	})
	client.waiting = func(s string) {
		if s != "" {
			waited.Store(s)
		}
	}
	plan, err := client.Plan(context.Background())
	if err != nil || plan.Hostname != "h" {
		t.Errorf("got plan %+v, %v, want hostname h", plan, err)
	}
	const reason = "503 Service Unavailable no configuration yet"
	if got, _ := waited.Load().(string); !strings.Contains(got, reason) {
		t.Errorf("got reason for waiting %q, want %q", got, reason)
	}
	ctx, cancel := context.WithCancel(context.Background())
	bad := serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) })
	bad.waiting = func(string) { cancel() }
	if _, err := bad.Plan(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
	broken := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") })
	const unparsed = "this installer cannot parse the plan"
	if _, err := broken.Plan(context.Background()); err == nil || !strings.Contains(err.Error(), unparsed) {
		t.Errorf("got error %v, want %q", err, unparsed)
	}
}
