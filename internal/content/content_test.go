// SPDX-License-Identifier: Apache-2.0

package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/imagestream"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/qemuimg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a Library with its directories.
type lab struct {
	*Library
	images, programs, store string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{images: t.TempDir(), programs: t.TempDir(), store: t.TempDir()}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, name := range []string{"netbootd", "installer"} {
			write(t, filepath.Join(l.programs, name+"-linux-"+arch), []byte(name+" for "+arch))
		}
	}
	l.reopen(t)
	return l
}

// reopen creates a new Library on the same directories, as a restarted manager
// does.
func (l *lab) reopen(t *testing.T) {
	t.Helper()
	store, err := artifact.Open(artifact.Options{Dir: l.store, ImagesDir: l.images})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	disks, err := qemuimg.New(qemuimg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Library = New(Options{Store: store, Disks: disks, ImagesDir: l.images, ProgramsDir: l.programs})
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs a program and returns its output. It fails the test if the program
// fails.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// image adds an image to the images folder and returns its source and the
// content of the disk.
func (l *lab) image(t *testing.T, name, format string) (artifact.Source, []byte) {
	t.Helper()
	content := make([]byte, 4<<20) // mostly zeros, like a real image
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 200_000 {
		content[1<<20+i] = byte(rnd.Uint32())
	}
	path := filepath.Join(l.images, name)
	if format == "raw" {
		write(t, path, content)
	} else {
		raw := filepath.Join(t.TempDir(), "raw")
		write(t, raw, content)
		run(t, "qemu-img", "convert", "-f", "raw", "-O", format, raw, path)
	}
	return artifact.Source{Path: name, Checksum: digestOf(t, path), Format: format}, content
}

func digestOf(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestFile(t *testing.T) {
	l := newLab(t)
	write(t, filepath.Join(l.images, "kernel"), []byte("a kernel"))
	src := artifact.Source{Path: "kernel", Checksum: digestOf(t, filepath.Join(l.images, "kernel"))}
	blob, err := l.File(t.Context(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Blob{Digest: src.Checksum, Size: 8}, blob); diff != "" {
		t.Fatalf("blob (-want +got):\n%s", diff)
	}
	path, ok := l.Path(blob.Digest)
	if !ok {
		t.Fatalf("Path(%s): got none, want one", blob.Digest)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "a kernel" {
		t.Errorf("got content %q, error %v, want %q", got, err, "a kernel")
	}
	if _, ok := l.Path("sha256:" + strings.Repeat("0", 64)); ok {
		t.Error("Path of unknown content: got one, want none")
	}
	src.Checksum = "sha256:" + strings.Repeat("0", 64)
	var typed *artifact.Error
	if _, err := l.File(t.Context(), src, nil); !errors.As(err, &typed) || typed.Reason != artifact.ReasonChecksumMismatch {
		t.Errorf("wrong checksum: got %v, want reason %s", err, artifact.ReasonChecksumMismatch)
	}
}

func TestStream(t *testing.T) {
	l := newLab(t)
	for _, format := range []string{"qcow2", "raw"} {
		src, want := l.image(t, "image."+format, format)
		blob, err := l.Stream(t.Context(), src, nil)
		if err != nil {
			t.Fatal(err)
		}
		if blob.DiskBytes != int64(len(want)) {
			t.Errorf("%s: got a disk of %d bytes, want %d", format, blob.DiskBytes, len(want))
		}
		if blob.Size > 1<<20 {
			t.Errorf("%s: got a blob of %d bytes, want at most %d", format, blob.Size, 1<<20)
		}
		path, ok := l.Path(blob.Digest)
		if !ok {
			t.Fatalf("Path(%s): got none, want that of the stream", blob.Digest)
		}
		if got := unpack(t, path, blob); !bytes.Equal(got, want) {
			t.Errorf("%s: got %d other bytes from the stream, want the %d bytes of the image", format, len(got), len(want))
		}
		// A restarted manager returns the same stream.
		l.reopen(t)
		if again, err := l.Stream(t.Context(), src, nil); err != nil || again != blob {
			t.Errorf("%s: after a restart: got %+v, %v; want %+v", format, again, err, blob)
		}
	}
}

// A compressed file may contain a qcow2 image, for targets and for servers.
func TestPackedQCOW2(t *testing.T) {
	l := newLab(t)
	src, want := l.image(t, "image.qcow2", "qcow2")
	run(t, "xz", filepath.Join(l.images, src.Path))
	src = artifact.Source{Path: "image.qcow2.xz", Checksum: digestOf(t, filepath.Join(l.images, "image.qcow2.xz")), Format: "raw.xz"}
	blob, err := l.Stream(t.Context(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	path, ok := l.Path(blob.Digest)
	if !ok {
		t.Fatalf("Path(%s): got none, want that of the stream", blob.Digest)
	}
	if got := unpack(t, path, blob); !bytes.Equal(got, want) {
		t.Errorf("got %d other bytes from the stream, want the %d bytes of the image", len(got), len(want))
	}
	disk := filepath.Join(t.TempDir(), "disk0.qcow2")
	if err := l.ServerDisk(t.Context(), src, disk, 8<<20, nil); err != nil {
		t.Fatal(err)
	}
	if info := run(t, "qemu-img", "info", disk); !strings.Contains(info, "backing file format: raw") {
		t.Errorf("got disk %s, want one on a raw image", info)
	}
}

// unpack returns the disk that the installer creates from a stream.
func unpack(t *testing.T, path string, blob Blob) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := imagestream.NewReader(f, blob.Pin)
	if err != nil {
		t.Fatalf("opening the stream with its pin: got error %v, want none", err)
	}
	defer r.Close()
	out := make([]byte, blob.DiskBytes)
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.Segments {
			copy(out[s.Offset:], s.Data)
		}
		c.Release()
	}
}

func TestImageWithWrongFormatIsRejected(t *testing.T) {
	l := newLab(t)
	src, _ := l.image(t, "image", "raw")
	src.Format = "qcow2"
	if _, err := l.Stream(t.Context(), src, nil); err == nil || !strings.Contains(err.Error(), "image") {
		t.Errorf("Stream: got %v, want an error that names the image", err)
	}
	err := l.ServerDisk(t.Context(), src, filepath.Join(t.TempDir(), "disk"), 8<<20, nil)
	if err == nil {
		t.Error("ServerDisk: got no error, want one")
	}
}

func TestOverlay(t *testing.T) {
	l := newLab(t)
	blobs := map[string]Blob{}
	for _, arch := range []string{"x86_64", "aarch64"} {
		blob, err := l.Overlay(t.Context(), arch)
		if err != nil {
			t.Fatal(err)
		}
		blobs[arch] = blob
	}
	if blobs["x86_64"].Digest == blobs["aarch64"].Digest {
		t.Errorf("got archive %s for both architectures, want different ones", blobs["x86_64"].Digest)
	}
	path, _ := l.Path(blobs["x86_64"].Digest)
	archive, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	cpio := exec.Command("cpio", "--extract", "--quiet", "--no-absolute-filenames")
	cpio.Dir = t.TempDir()
	cpio.Stdin = archive
	if out, err := cpio.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(cpio.Dir, "pxelab-installer")); err != nil || string(got) != "installer for amd64" {
		t.Errorf("got installer %q, %v; want %q", got, err, "installer for amd64")
	}
	// The same installer has the same digest in another store.
	other := newLab(t)
	if blob, err := other.Overlay(t.Context(), "x86_64"); err != nil || blob != blobs["x86_64"] {
		t.Errorf("in another store: got %+v, %v; want %+v", blob, err, blobs["x86_64"])
	}
	// A new installer has another digest.
	write(t, filepath.Join(l.programs, "installer-linux-amd64"), []byte("newer installer"))
	if blob, err := l.Overlay(t.Context(), "x86_64"); err != nil || blob.Digest == blobs["x86_64"].Digest {
		t.Errorf("new installer: got %+v, %v; want another digest", blob, err)
	}
}

func TestServerDisk(t *testing.T) {
	l := newLab(t)
	src, want := l.image(t, "server.qcow2", "qcow2")
	path := filepath.Join(t.TempDir(), "machine", "disk0.qcow2")
	const size = 8 << 20
	if err := l.ServerDisk(t.Context(), src, path, size, nil); err != nil {
		t.Fatal(err)
	}
	var info struct {
		Format   string `json:"format"`
		Size     int64  `json:"virtual-size"`
		Backing  string `json:"full-backing-filename"`
		Reported string `json:"backing-filename-format"`
	}
	if err := json.Unmarshal([]byte(run(t, "qemu-img", "info", "--output=json", path)), &info); err != nil {
		t.Fatal(err)
	}
	if info.Format != "qcow2" {
		t.Errorf("got format %s, want qcow2", info.Format)
	}
	if info.Size != size {
		t.Errorf("got an overlay of %d bytes, want %d", info.Size, size)
	}
	if info.Reported != "qcow2" {
		t.Errorf("got a backing file of format %s, want qcow2", info.Reported)
	}
	if !strings.HasPrefix(info.Backing, l.store) {
		t.Errorf("got backing file %s, want one below %s", info.Backing, l.store)
	}
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 0 512", path)
	raw := filepath.Join(t.TempDir(), "raw")
	run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
	got, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[512:len(want)], want[512:]) {
		t.Error("got other data after the written block, want that of the image")
	}
	if got[0] != 0x5a {
		t.Errorf("got first byte %#x, want 0x5a, which was written", got[0])
	}
	// Data written by the server remains.
	before := digestOf(t, path)
	if err := l.ServerDisk(t.Context(), src, path, size, nil); err != nil {
		t.Errorf("second call: got error %v, want none", err)
	}
	if got := digestOf(t, path); got != before {
		t.Errorf("second call: got a disk with digest %s, want %s as before", got, before)
	}
	err = l.ServerDisk(t.Context(), src, filepath.Join(t.TempDir(), "small"), 1<<20, nil)
	if err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("disk smaller than its image: got %v, want an error that asks for a larger disk", err)
	}
}

// The files of the store are deleted while the Library is open, and before it is opened.
func TestServerDiskOfDeletedImage(t *testing.T) {
	l := newLab(t)
	src, _ := l.image(t, "server.qcow2", "qcow2")
	path := filepath.Join(t.TempDir(), "disk0.qcow2")
	create := func() {
		t.Helper()
		if err := l.ServerDisk(t.Context(), src, path, 8<<20, nil); err != nil {
			t.Fatal(err)
		}
		// It fails if the image does not exist.
		run(t, "qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", path)
	}
	create()
	written := digestOf(t, path)
	empty(t, l.store)
	create()
	if got := digestOf(t, path); got != written {
		t.Errorf("the image was fetched again: got a disk with digest %s, want %s as before", got, written)
	}
	// Another image is published under the same name.
	src.Checksum = "SHA256SUMS"
	publish := func() {
		t.Helper()
		sum := strings.TrimPrefix(digestOf(t, filepath.Join(l.images, src.Path)), "sha256:")
		write(t, filepath.Join(l.images, "SHA256SUMS"), []byte(sum+"  "+src.Path+"\n"))
	}
	publish()
	create()
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", filepath.Join(l.images, src.Path), "4M")
	publish()
	empty(t, l.store)
	l.reopen(t)
	create()
}

// empty deletes everything in a directory.
func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

func serverSeed(t *testing.T) ServerSeed {
	t.Helper()
	credentials, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ServerSeed{
		InstanceID: "pxelab-1", Hostname: "lab", Architecture: "aarch64", Credentials: credentials,
		SSHUser: "lab", SSHAuthorizedKeys: []string{"ssh-ed25519 AAAA lab"},
		UplinkMAC: "52:54:00:00:00:01", LabMAC: "52:54:00:00:00:02", LabAddress: netip.MustParsePrefix("10.88.0.1/24"), MTU: 9000,
	}
}

func TestServerSeed(t *testing.T) {
	l := newLab(t)
	s := serverSeed(t)
	iso := filepath.Join(t.TempDir(), "seed.iso")
	if err := l.ServerSeed(iso, s); err != nil {
		t.Fatal(err)
	}
	if label := run(t, "xorriso", "-indev", iso, "-pvd_info"); !strings.Contains(strings.ToLower(label), "cidata") {
		t.Errorf("got volume descriptor\n%s\nwant the label cidata", label)
	}
	dir := filepath.Join(t.TempDir(), "out")
	run(t, "xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", dir)
	for name, want := range map[string]string{
		"netbootd": "netbootd for arm64", "netbootd.service": "[Service]",
		"ca.crt": string(s.Credentials.CA), "server.crt": string(s.Credentials.ServerCrt), "server.key": string(s.Credentials.ServerKey),
		"meta-data": "pxelab-1", "user-data": "#cloud-config", "network-config": "10.88.0.1/24",
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s: got %q, %v; want it to contain %q", name, got, err, want)
		}
	}
	// The seed must not contain the manager's private key.
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, bytes.TrimSpace(s.Credentials.ClientKey)) {
			t.Errorf("%s: got the manager's private key, want a seed without it", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	st, err := os.Stat(iso)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		t.Errorf("got mode %v, want no access for group and others", st.Mode())
	}
}

func TestMissingProgramsAreReported(t *testing.T) {
	l := newLab(t)
	if err := os.RemoveAll(l.programs); err != nil {
		t.Fatal(err)
	}
	_, err := l.Overlay(t.Context(), "x86_64")
	for what, err := range map[string]error{
		"installer for x86_64": err,
		"netbootd for aarch64": l.ServerSeed(filepath.Join(t.TempDir(), "seed.iso"), serverSeed(t)),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got error %v, want %v", what, err, fs.ErrNotExist)
			continue
		}
		for _, want := range []string{what, "make build"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got error %v, want one that contains %q", what, err, want)
			}
		}
	}
}

func TestStreamIsCancelable(t *testing.T) {
	l := newLab(t)
	src, _ := l.image(t, "image.qcow2", "qcow2")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Stream(ctx, src, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if _, err := l.Stream(t.Context(), src, nil); err != nil {
		t.Errorf("after a canceled call: got error %v, want none", err)
	}
}
