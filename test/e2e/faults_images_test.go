// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/paths"
)

// overHTTP is the profile whose image comes from the hostile server. The second
// target is installed from it.
const overHTTP = "debian-13-over-http"

// hostileServer downloads the lab's image from a server that truncates every
// response, and small images from servers with other faults. A profile must offer
// the right content or none.
func hostileServer(x *trial) {
	dirs, err := paths.Default()
	if err != nil {
		x.Fatal(err)
	}
	file := filepath.Join(dirs.Images(), "debian", "debian-trixie-amd64.qcow2")
	whole, err := os.ReadFile(file)
	if err != nil {
		x.Fatal(err)
	}
	wrong, never := noise(), noise()
	changed, quiet := noise(), noise()
	short := noise()
	var repaired atomic.Bool
	server := hostile{
		"/breaks-off":      breaksOff(whole),
		"/changes":         changes(wrong, changed, true),
		"/changes-quietly": changes(wrong, quiet, false),
		"/lies":            lies(short, &repaired),
		"/another":         honest(wrong, ""),
	}
	http := httptest.NewServer(server.count())
	defer http.Close()

	x.markFault()
	x.profile(overHTTP, http.URL+"/breaks-off", whole, v1alpha1.ImageQCOW2)
	small := map[string][]byte{"changes": changed, "changes-quietly": quiet, "lies": short, "another": never}
	for name, content := range small {
		x.profile(name, http.URL+"/"+name, content, v1alpha1.ImageRaw)
		defer x.removeProfile(name)
	}
	x.awaitMismatch("another")
	x.awaitMismatch("lies")
	repaired.Store(true)
	for _, name := range []string{"changes", "changes-quietly", "lies"} {
		x.imageOf(name)
		x.stored(small[name])
	}
	got := x.imageOf(overHTTP)
	x.stored(whole)
	x.recovered(time.Now())
	if right := x.imageOf("debian-13"); got != right {
		x.Errorf("got image %s over HTTP, want %s as from the file", got, right)
	}
	x.awaitMismatch("another")
}

// stored checks that the lab's store contains the content.
func (x *trial) stored(content []byte) {
	x.Helper()
	sum := sha256.Sum256(content)
	got, err := os.ReadFile(filepath.Join(x.data, "artifacts", "sha256", hex.EncodeToString(sum[:])))
	if err != nil || !bytes.Equal(got, content) {
		x.Errorf("got %d bytes from the store, want the %d bytes of the image, error %v", len(got), len(content), err)
	}
}

// profile creates the sample profile with another name and image, if it does not
// exist.
func (x *trial) profile(name, url string, content []byte, format v1alpha1.ImageFormat) {
	x.Helper()
	p := sample(x.faultLab, x, "debian-13", &v1alpha1.BootProfile{})
	sum := sha256.Sum256(content)
	p.Name = name
	p.Spec.Image.Source = v1alpha1.BootImageSource{
		URL: v1alpha1.ArtifactURL(url), Checksum: v1alpha1.Checksum("sha256:" + hex.EncodeToString(sum[:])), Format: format,
	}
	x.ensure(x, p)
}

func (x *trial) removeProfile(name string) {
	x.Helper()
	p := &v1alpha1.BootProfile{}
	err := x.client.Get(x.Context(), client.ObjectKey{Namespace: "default", Name: name}, p)
	if err == nil {
		err = x.client.Delete(x.Context(), p)
	}
	if err != nil {
		x.Error(err)
		return
	}
	x.awaitGone(x.T, p)
}

// imageOf waits until a profile is Ready and returns the digest of its image.
func (x *trial) imageOf(name string) string {
	x.Helper()
	p, _, err := until(x.Context(), x.w, "profile/"+name, time.Time{}, func(p *v1alpha1.BootProfile) (bool, error) {
		return meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady), nil
	})
	if err != nil {
		x.Fatalf("waiting for profile %s to become Ready: %v; last state %+v", name, err, p)
	}
	for _, a := range p.Status.Artifacts {
		if a.Name == "image" {
			return a.Digest
		}
	}
	x.Fatalf("profile %s is Ready, want an image in its status %+v", name, p.Status)
	return ""
}

// awaitMismatch waits until a profile reports a checksum mismatch, and checks that it
// was never Ready.
func (x *trial) awaitMismatch(name string) {
	x.Helper()
	p, _, err := until(x.Context(), x.w, "profile/"+name, time.Time{}, func(p *v1alpha1.BootProfile) (bool, error) {
		if meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady) {
			return false, fmt.Errorf("the profile is Ready")
		}
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionArtifactsReady)
		return c != nil && c.Reason == "ChecksumMismatch", nil
	})
	if err != nil {
		x.Fatalf("waiting for profile %s to report ChecksumMismatch: %v; last state %+v", name, err, p)
	}
}

// noise returns a small random image, which does not compress and is in no store.
func noise() []byte {
	out := make([]byte, 8<<20)
	_, _ = rand.Read(out)
	return out
}

// hostile maps paths to handlers; nth is the number of the path's request, from 1.
type hostile map[string]func(w http.ResponseWriter, r *http.Request, nth int64)

func (h hostile) count() http.Handler {
	counts := map[string]*atomic.Int64{}
	for path := range h {
		counts[path] = &atomic.Int64{}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := h[r.URL.Path]
		if answer == nil {
			http.NotFound(w, r)
			return
		}
		answer(w, r, counts[r.URL.Path].Add(1))
	})
}

// honest serves content correctly.
func honest(content []byte, tag string) func(http.ResponseWriter, *http.Request, int64) {
	return func(w http.ResponseWriter, r *http.Request, _ int64) {
		if tag != "" {
			w.Header().Set("ETag", tag)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

// breaksOff ends every response after 24 MB, alternately with a reset and with a
// regular close.
func breaksOff(content []byte) func(http.ResponseWriter, *http.Request, int64) {
	const most = 24 << 20
	return func(w http.ResponseWriter, r *http.Request, nth int64) {
		w.Header().Set("ETag", `"the-one"`)
		http.ServeContent(&cut{ResponseWriter: w, left: most, reset: nth%2 == 1}, r, "", time.Time{}, bytes.NewReader(content))
	}
}

// cut is a response that ends early.
type cut struct {
	http.ResponseWriter
	left  int
	reset bool
}

func (c *cut) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	c.left -= n
	if err != nil || c.left > 0 {
		return n, err
	}
	conn, buffered, err := http.NewResponseController(c.ResponseWriter).Hijack()
	if err != nil {
		return n, err
	}
	_ = buffered.Flush()
	if tcp, ok := conn.(*net.TCPConn); ok && c.reset {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
	return n, io.ErrShortWrite
}

// changes truncates the first response in the middle of a file, and then serves
// another file of the same size: with tags, ETags announce the change; without,
// the second file appears to be the first.
func changes(before, after []byte, tags bool) func(http.ResponseWriter, *http.Request, int64) {
	tag := func(s string) string {
		if tags {
			return s
		}
		return ""
	}
	return func(w http.ResponseWriter, r *http.Request, nth int64) {
		if nth == 1 {
			honest(before, tag(`"before"`))(&cut{ResponseWriter: w, left: len(before) / 2}, r, nth)
			return
		}
		honest(after, tag(`"after"`))(w, r, nth)
	}
}

// lies announces and serves half of the file until it is repaired.
func lies(content []byte, repaired *atomic.Bool) func(http.ResponseWriter, *http.Request, int64) {
	return func(w http.ResponseWriter, r *http.Request, nth int64) {
		if repaired.Load() {
			honest(content, "")(w, r, nth)
			return
		}
		if strings.Contains(r.Header.Get("Range"), "bytes=") {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		half := content[:len(content)/2]
		w.Header().Set("Content-Length", fmt.Sprint(len(half)))
		_, _ = w.Write(half)
	}
}
