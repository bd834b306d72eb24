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

	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/disk"
	"github.com/pxelab/pxelab/internal/imagestream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a Library on directories of its own.
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

// reopen makes the Library of a manager that starts on the same directories.
func (l *lab) reopen(t *testing.T) {
	t.Helper()
	store, err := artifact.Open(artifact.Options{Dir: l.store, ImagesDir: l.images})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	disks, err := disk.New(disk.Options{})
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

// run fails the test when the tool does.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// image puts an image into the image folder and returns what is on the disk.
func (l *lab) image(t *testing.T, name, format string) (artifact.Source, []byte) {
	t.Helper()
	content := make([]byte, 4<<20) // mostly holes, as images are
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
	if err != nil || blob.Digest != src.Checksum || blob.Size != 8 || blob.Pin != "" || blob.DiskBytes != 0 {
		t.Fatalf("got %+v, %v", blob, err)
	}
	path, ok := l.Path(blob.Digest)
	if got, err := os.ReadFile(path); !ok || err != nil || string(got) != "a kernel" {
		t.Errorf("the store has %q, %v", got, err)
	}
	if _, ok := l.Path("sha256:" + strings.Repeat("0", 64)); ok {
		t.Error("content that nobody fetched is there")
	}
	src.Checksum = "sha256:" + strings.Repeat("0", 64)
	var typed *artifact.Error
	if _, err := l.File(t.Context(), src, nil); !errors.As(err, &typed) || typed.Reason != artifact.ReasonChecksumMismatch {
		t.Errorf("a wrong checksum: %v", err)
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
		if blob.DiskBytes != int64(len(want)) || blob.Size > 1<<20 {
			t.Errorf("%s: %+v", format, blob)
		}
		path, ok := l.Path(blob.Digest)
		if !ok {
			t.Fatal("the stream is not in the store")
		}
		if got := unpack(t, path, blob); !bytes.Equal(got, want) {
			t.Errorf("%s: the installer would write something else", format)
		}
		// The next manager finds it made, and names it the same.
		l.reopen(t)
		if again, err := l.Stream(t.Context(), src, nil); err != nil || again != blob {
			t.Errorf("%s: %+v became %+v, %v", format, blob, again, err)
		}
	}
}

// unpack does what the installer does.
func unpack(t *testing.T, path string, blob Blob) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := imagestream.NewReader(f, blob.Pin)
	if err != nil {
		t.Fatalf("the pin is not the stream's: %v", err)
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

func TestAnImageOfAnotherFormat(t *testing.T) {
	l := newLab(t)
	src, _ := l.image(t, "image", "raw")
	src.Format = "qcow2"
	if _, err := l.Stream(t.Context(), src, nil); err == nil || !strings.Contains(err.Error(), "image") {
		t.Errorf("got %v", err)
	}
	err := l.ServerDisk(t.Context(), src, filepath.Join(t.TempDir(), "disk"), 8<<20, nil)
	if err == nil {
		t.Error("a server's disk was made over an image of another format")
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
		t.Error("both architectures get the same installer")
	}
	path, _ := l.Path(blobs["x86_64"].Digest)
	archive, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	cpio := exec.Command("cpio", "--extract", "--quiet", "--no-absolute-filenames")
	cpio.Dir, cpio.Stdin = t.TempDir(), archive
	if out, err := cpio.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(cpio.Dir, "pxelab-installer")); err != nil || string(got) != "installer for amd64" {
		t.Errorf("the archive has %q, %v", got, err)
	}
	// The same installer has the same digest, in another store as well.
	other := newLab(t)
	if blob, err := other.Overlay(t.Context(), "x86_64"); err != nil || blob != blobs["x86_64"] {
		t.Errorf("%+v elsewhere is %+v, %v", blobs["x86_64"], blob, err)
	}
	// A new one has another.
	write(t, filepath.Join(l.programs, "installer-linux-amd64"), []byte("newer installer"))
	if blob, err := l.Overlay(t.Context(), "x86_64"); err != nil || blob.Digest == blobs["x86_64"].Digest {
		t.Errorf("a new installer is served as %+v, %v", blob, err)
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
	if info.Format != "qcow2" || info.Size != size || info.Reported != "qcow2" || !strings.HasPrefix(info.Backing, l.store) {
		t.Errorf("made %+v", info)
	}
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 0 512", path)
	raw := filepath.Join(t.TempDir(), "raw")
	run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
	got, err := os.ReadFile(raw)
	if err != nil || !bytes.Equal(got[512:len(want)], want[512:]) || got[0] != 0x5a {
		t.Errorf("the disk does not hold the image (%v)", err)
	}
	// What the server wrote stays.
	before := digestOf(t, path)
	if err := l.ServerDisk(t.Context(), src, path, size, nil); err != nil || digestOf(t, path) != before {
		t.Errorf("a disk that was there was changed: %v", err)
	}
	if err := l.ServerDisk(t.Context(), src, filepath.Join(t.TempDir(), "small"), 1<<20, nil); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a disk smaller than its image: %v", err)
	}
}

func serverSeed(t *testing.T) ServerSeed {
	t.Helper()
	credentials, err := agent.NewCredentials(time.Now())
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
		t.Errorf("the volume is no cidata:\n%s", label)
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
			t.Errorf("%s: %v, has %q", name, err, got)
		}
	}
	// What the manager proves itself with stays with the manager.
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, bytes.TrimSpace(s.Credentials.ClientKey)) {
			t.Errorf("%s holds the manager's key", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(iso); err != nil || st.Mode().Perm()&0o077 != 0 {
		t.Errorf("others may read the seed's keys: %v, %v", st.Mode(), err)
	}
}

func TestProgramsThatWereNotBuilt(t *testing.T) {
	l := newLab(t)
	if err := os.RemoveAll(l.programs); err != nil {
		t.Fatal(err)
	}
	_, err := l.Overlay(t.Context(), "x86_64")
	for what, err := range map[string]error{
		"installer for x86_64": err,
		"netbootd for aarch64": l.ServerSeed(filepath.Join(t.TempDir(), "seed.iso"), serverSeed(t)),
	} {
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "make build") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestWorkEndsWithItsContext(t *testing.T) {
	l := newLab(t)
	src, _ := l.image(t, "image.qcow2", "qcow2")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Stream(ctx, src, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := l.Stream(t.Context(), src, nil); err != nil {
		t.Errorf("after a call that was given up: %v", err)
	}
}
