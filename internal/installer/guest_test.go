// SPDX-License-Identifier: Apache-2.0

//go:build linux

package installer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/imagestream"
	"github.com/pxelab/pxelab/internal/installer/initramfs"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// These tests run the installer as PID 1 of a real kernel in a virtual machine
// without firmware: QEMU loads kernel and initrd itself.

// guestLimit bounds a test on a very slow host.
const guestLimit = 10 * time.Minute

// labImage returns the path of a file that `make images` builds.
func labImage(t testing.TB, name string) string {
	t.Helper()
	cache := os.Getenv("PXELAB_CACHE_DIR")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(base, "pxelab")
	}
	path := filepath.Join(cache, "images", "debian", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make images` first", err)
	}
	return path
}

func tool(t testing.TB, name, pkg string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if found, err := exec.LookPath(p); err == nil {
			return found
		}
	}
	t.Fatalf("%s is missing (Debian: package %s; `make deps` installs it)", name, pkg)
	return ""
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// initrd builds a distribution's initrd with the installer appended to it.
func initrd(t testing.TB, distribution string) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "installer")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "github.com/pxelab/pxelab/cmd/installer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the installer: %v\n%s", err, out)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(labImage(t, distribution))
	if err != nil {
		t.Fatal(err)
	}
	both := bytes.NewBuffer(archive)
	for both.Len()%4 != 0 {
		both.WriteByte(0)
	}
	if err := initramfs.Write(both, binary); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initrd")
	if err := os.WriteFile(path, both.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// lab implements the server's side of the protocol.
type lab struct {
	plan installerapi.Plan
	blob string
	// cutAt has the offsets in the blob, in order, at which a connection is closed that
	// gets there, each once.
	cutAt []int64

	server *httptest.Server
	mu     sync.Mutex
	pid    int
	posts  []post
	ranges []string
	end    chan installerapi.Progress
}

type post struct {
	at  time.Time
	cpu time.Duration // CPU time that the machine has used
	installerapi.Progress
}

func (l *lab) start(t testing.TB) {
	t.Helper()
	l.end = make(chan installerapi.Progress, 16)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /m/token/plan", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(l.plan)
	})
	mux.HandleFunc("GET /m/token/image", l.image)
	mux.HandleFunc("POST /m/token/progress", func(w http.ResponseWriter, r *http.Request) {
		p := post{at: time.Now(), cpu: l.cpu()}
		if err := json.NewDecoder(r.Body).Decode(&p.Progress); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		l.mu.Lock()
		l.posts = append(l.posts, p)
		l.mu.Unlock()
		if p.Stage == installerapi.StageDone || p.Stage == installerapi.StageFailed {
			l.end <- p.Progress
		}
		w.WriteHeader(http.StatusNoContent)
	})
	l.server = httptest.NewServer(mux)
	t.Cleanup(l.server.Close)
}

func (l *lab) image(w http.ResponseWriter, r *http.Request) {
	start := int64(0)
	_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &start)
	l.mu.Lock()
	l.ranges = append(l.ranges, r.Header.Get("Range"))
	cut := int64(-1)
	if len(l.cutAt) > 0 {
		cut = l.cutAt[0]
	}
	l.mu.Unlock()
	f, err := os.Open(l.blob)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer f.Close()
	w.Header().Set("ETag", `"`+l.plan.ImageDigest+`"`)
	if cut > start {
		w = &cutter{ResponseWriter: w, left: cut - start}
		defer func() {
			if reason := recover(); reason != nil {
				l.mu.Lock()
				l.cutAt = l.cutAt[1:]
				l.mu.Unlock()
				panic(reason)
			}
		}()
	}
	http.ServeContent(w, r, "", time.Time{}, f)
}

// cpu returns the CPU time that the machine has used. Unlike wall clock time, it
// does not depend on the host's load.
func (l *lab) cpu() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", l.pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	var user, system int64
	if len(f) > 12 {
		_, _ = fmt.Sscan(f[11], &user)
		_, _ = fmt.Sscan(f[12], &system)
	}
	const ticks = 100 // USER_HZ on every Linux that QEMU runs on
	return time.Duration(user+system) * time.Second / ticks
}

// url returns the base URL as the guest reaches it through QEMU's user network.
func (l *lab) url(t testing.TB) string {
	t.Helper()
	_, port, err := net.SplitHostPort(l.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "http://10.0.2.2:" + port + "/m/token/"
}

// encode encodes a raw image for the installer and completes the plan.
func (l *lab) encode(t testing.TB, raw string) *imagestream.Header {
	t.Helper()
	src, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		t.Fatal(err)
	}
	l.blob = filepath.Join(t.TempDir(), "blob")
	dst, err := os.Create(l.blob)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	h, err := imagestream.Write(context.Background(), dst, src, st.Size(), imagestream.Options{Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	l.plan.ImageDigest = h.Digest()
	l.plan.ImagePin = h.Digest()
	l.plan.ImageSize = h.Size
	return h
}

// guest runs a machine until it has sent its last report and, if it was
// installed, resets. With a handoff by kexec it waits for the installed kernel
// instead of the reset. It returns the last report and the console's output.
func (l *lab) guest(t testing.TB, initrdPath string, disk ...string) (installerapi.Progress, string) {
	t.Helper()
	console := filepath.Join(t.TempDir(), "console")
	args := []string{
		"-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", "512",
		"-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "file:" + console,
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile=",
		"-kernel", labImage(t, "debian-trixie-amd64-vmlinuz"), "-initrd", initrdPath,
		"-append", "console=ttyS0 quiet rdinit=" + installerapi.InitPath + " " + installerapi.ArgURL + "=" + l.url(t) + " " +
			installerapi.ArgNet + "=52:54:00:12:34:56,10.0.2.15/24,10.0.2.2",
	}
	qemu := exec.Command(tool(t, "qemu-system-x86_64", "qemu-system-x86"), append(args, disk...)...)
	var stderr bytes.Buffer
	qemu.Stderr = &stderr
	started := time.Now()
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.pid = qemu.Process.Pid
	l.mu.Unlock()
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = qemu.Wait() // fails when QEMU is killed
	}()
	kill := func() {
		_ = qemu.Process.Kill()
		<-exited
	}
	text := func() string {
		b, _ := os.ReadFile(console)
		return string(b)
	}
	limit := time.After(guestLimit)
	var last installerapi.Progress
	select {
	case last = <-l.end:
	case <-exited:
		t.Fatalf("got an exit of QEMU, want a last report first: %s\n%s", &stderr, text())
	case <-limit:
		kill()
		t.Fatalf("after %s: got no last report, want one\n%s", guestLimit, text())
	}
	// until waits for a text on the console.
	until := func(want string) {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for !strings.Contains(text(), want) {
			select {
			case <-tick.C:
			case <-limit:
				t.Errorf("the console does not show %q", want)
				return
			}
		}
	}
	switch {
	case last.Stage == installerapi.StageFailed:
		until("starting over")
		kill()
	case l.plan.Handoff == "Kexec":
		until("starting the installed system")
		loaded := l.cpu()
		until("Linux version")
		t.Logf("%.1f s of CPU time from kexec to the kernel's first line", (l.cpu() - loaded).Seconds())
		until("Command line: root=UUID=")
		kill() // before it changes the disk
	default:
		select {
		case <-exited:
		case <-limit:
			kill()
			t.Fatalf("after the last report: got no reset of the machine, want one\n%s", text())
		}
	}
	t.Logf("%.1f s in total\n%s", time.Since(started).Seconds(), text())
	return last, text()
}

func virtioDisk(path, format string) []string {
	return []string{
		"-drive", "if=none,id=disk,file=" + path + ",format=" + format + ",cache=writeback,discard=unmap,detect-zeroes=unmap",
		"-device", "virtio-blk-pci,drive=disk",
	}
}

// brokenDisk returns QEMU arguments for a disk on which every write fails.
func brokenDisk(path string) []string {
	const failing = "file.inject-error.0.event=none,file.inject-error.0.iotype=write,file.inject-error.0.errno=5" // EIO
	return []string{
		"-drive", "if=none,id=disk,format=raw,file.driver=blkdebug,file.image.driver=file," +
			"file.image.filename=" + path + "," + failing,
		"-device", "virtio-blk-pci,drive=disk",
	}
}

const networkConfig = `version: 2
ethernets:
  lab:
    match: {macaddress: "52:54:00:12:34:56"}
    addresses: [10.0.2.15/24]
`

func newLab() *lab {
	return &lab{plan: installerapi.Plan{
		Attempt: "attempt-7", Hostname: "target-1", Handoff: "Reset",
		SeedURL: "http://10.0.2.2/m/token/ci/", NetworkConfig: networkConfig,
	}}
}

// blank creates a sparse file.
func blank(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestGuestInstallsDebian installs the real image on a disk with old data, over
// a connection that breaks, and hands over to the installed kernel by kexec.
func TestGuestInstallsDebian(t *testing.T) {
	raw := filepath.Join(t.TempDir(), "image.raw")
	command(t, tool(t, "qemu-img", "qemu-utils"), "convert", "-O", "raw", labImage(t, "debian-trixie-amd64.qcow2"), raw)
	l := newLab()
	l.plan.Handoff = "Kexec"
	h := l.encode(t, raw)
	l.cutAt = []int64{h.Size / 3, h.Size * 7 / 12}
	l.start(t)

	const size = 3 << 30
	disk := blank(t, size)
	command(t, tool(t, "sgdisk", "gdisk"), "--clear", "--new=7:1M:+300M", disk)
	old := bytes.Repeat([]byte("rubbish "), 1<<20/8)
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(1 << 20); at < 700<<20; at += 8 << 20 {
		if _, err := f.WriteAt(old, at); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()

	last, console := l.guest(t, initrd(t, "debian-trixie-amd64-initrd"), virtioDisk(disk, "raw")...)
	wantDone(t, last)
	l.checkReports(t, h)
	if !strings.Contains(console, "pxelab: Write 100%") && !strings.Contains(console, "pxelab: Verify 100%") {
		t.Errorf("console: got no progress at 100%%, want it:\n%s", console)
	}
	if len(l.cutAt) > 0 || !regexp.MustCompile(`^(;bytes=[^;]*)+$`).MatchString(strings.Join(l.ranges, ";")) {
		t.Errorf("got image requests with ranges %q, and none up to %v, want one without a range and others where it broke", l.ranges, l.cutAt)
	}
	checkDisk(t, disk, size, raw)
}

func wantDone(t testing.TB, last installerapi.Progress) {
	t.Helper()
	if last.Stage != installerapi.StageDone {
		t.Fatalf("got last report %+v, want stage %s", last, installerapi.StageDone)
	}
	if last.Message != "installed target-1" {
		t.Fatalf("got last message %q, want \"installed target-1\"", last.Message)
	}
}

// checkReports checks that the reports are in the order of the stages and that
// their byte counts increase up to the image's.
func (l *lab) checkReports(t testing.TB, h *imagestream.Header) {
	t.Helper()
	order := []installerapi.Stage{
		installerapi.StageStart, installerapi.StageWrite, installerapi.StageVerify,
		installerapi.StagePartition, installerapi.StageConfigure, installerapi.StageDone,
	}
	stage, written := 0, int64(0)
	for _, p := range l.posts {
		for stage < len(order) && order[stage] != p.Stage {
			stage++
		}
		if stage == len(order) {
			t.Fatalf("got report %+v, want reports in the order %v", p, order)
		}
		if p.Attempt != "attempt-7" {
			t.Errorf("got report of attempt %q, want attempt-7", p.Attempt)
		}
		if p.BytesWritten < written {
			t.Errorf("got report of %d bytes written, want at least %d as before", p.BytesWritten, written)
		}
		if stage > 1 && p.BytesTotal != h.DataBytes {
			t.Errorf("stage %s: got report of %d bytes in all, want %d", p.Stage, p.BytesTotal, h.DataBytes)
		}
		written = p.BytesWritten
	}
	if written != h.DataBytes {
		t.Errorf("the last report has %d bytes written, want %d", written, h.DataBytes)
	}
}

// checkDisk compares the unchanged part of the disk with the image and checks
// the rest with independent tools.
func checkDisk(t testing.TB, disk string, size int64, raw string) {
	t.Helper()
	if out := command(t, tool(t, "sgdisk", "gdisk"), "--verify", disk); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk --verify: got this output, want \"No problems found\":\n%s", out)
	}
	var table struct {
		PartitionTable struct {
			Partitions []struct {
				Node        string
				Start, Size int64
				Type        string
			}
		}
	}
	if err := json.Unmarshal([]byte(command(t, tool(t, "sfdisk", "fdisk"), "--json", disk)), &table); err != nil {
		t.Fatal(err)
	}
	var start, length int64
	for _, p := range table.PartitionTable.Partitions {
		if p.Start*512 > start {
			start, length = p.Start*512, p.Size*512
		}
	}
	if left := size - start - length; left > 2<<20 {
		t.Errorf("%d bytes are unused after the last partition, want at most %d", left, 2<<20)
	}
	// The ESP lies between table and root and must be unchanged.
	compareRange(t, disk, raw, 1<<20, start)

	root := filepath.Join(t.TempDir(), "root.ext4")
	extract(t, disk, root, start, length)
	command(t, tool(t, "e2fsck", "e2fsprogs"), "-fn", root)
	debugfs := tool(t, "debugfs", "e2fsprogs")
	for path, want := range map[string]string{
		"/etc/cloud/cloud.cfg.d/99-pxelab.cfg":         "seedfrom: \"http://10.0.2.2/m/token/ci/\"",
		"/etc/cloud/cloud.cfg.d/99-pxelab-network.cfg": "  version: 2\n  ethernets:\n    lab:\n",
		"/etc/cloud/ds-identify.cfg":                   "policy: enabled",
	} {
		if got := command(t, debugfs, "-R", "cat "+path, root); !strings.Contains(got, want) {
			t.Errorf("%s lacks %q:\n%s", path, want, got)
		}
	}
	stats := command(t, debugfs, "-R", "stats -h", root)
	var blocks, blockSize int64
	for line := range strings.Lines(stats) {
		_, _ = fmt.Sscanf(line, "Block count: %d", &blocks)
		_, _ = fmt.Sscanf(line, "Block size: %d", &blockSize)
	}
	// The last group may be too small to be used.
	if blocks*blockSize < length-128<<20 {
		t.Errorf("the file system has %d blocks of %d bytes, want it to fill its partition of %d bytes", blocks, blockSize, length)
	}
	if strings.Contains(command(t, debugfs, "-R", "features", root), "needs_recovery") {
		t.Error("file system: got the feature needs_recovery, want one that was unmounted")
	}
}

func compareRange(t testing.TB, a, b string, from, to int64) {
	t.Helper()
	read := func(path string) []byte {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		p := make([]byte, to-from)
		if _, err := f.ReadAt(p, from); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if !bytes.Equal(read(a), read(b)) {
		t.Errorf("disk: got other bytes from %d to %d, want those of the image", from, to)
	}
}

func extract(t testing.TB, disk, to string, start, length int64) {
	t.Helper()
	src, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := dst.Truncate(length); err != nil {
		t.Fatal(err)
	}
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < length; {
		n, err := src.ReadAt(buf[:min(int64(len(buf)), length-at)], start+at)
		if err != nil && err != io.EOF || n == 0 {
			t.Fatalf("reading the disk at %d: got %d bytes, error %v, want some bytes", start+at, n, err)
		}
		if !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := dst.WriteAt(buf[:n], at); err != nil {
				t.Fatal(err)
			}
		}
		at += int64(n)
	}
}

// BenchmarkGuestInstall reports the wall clock and CPU time of each stage of an
// installation of the real image.
func BenchmarkGuestInstall(b *testing.B) {
	raw := filepath.Join(b.TempDir(), "image.raw")
	command(b, tool(b, "qemu-img", "qemu-utils"), "convert", "-O", "raw", labImage(b, "debian-trixie-amd64.qcow2"), raw)
	for b.Loop() {
		l := newLab()
		l.encode(b, raw)
		l.start(b)
		disk := filepath.Join(b.TempDir(), "disk.qcow2")
		command(b, tool(b, "qemu-img", "qemu-utils"), "create", "-q", "-f", "qcow2", disk, "8G")
		started := time.Now()
		l.guest(b, initrd(b, "debian-trixie-amd64-initrd"), virtioDisk(disk, "qcow2")...)
		before := post{at: started}
		var stage installerapi.Stage
		for _, p := range l.posts {
			if p.Stage == stage {
				continue
			}
			name := "boot"
			if stage != "" {
				name = string(stage)
			}
			b.ReportMetric(p.at.Sub(before.at).Seconds(), name+"-s")
			b.ReportMetric((p.cpu - before.cpu).Seconds(), name+"-cpu-s")
			before, stage = p, p.Stage
		}
	}
}

// systemTree creates a directory with the files of a Linux system.
func systemTree(t testing.TB) string {
	t.Helper()
	tree := t.TempDir()
	for name, text := range map[string]string{
		"etc/os-release":                   "ID=test\n",
		"usr/bin/cloud-init":               "#!/bin/sh\n",
		"etc/cloud/cloud.cfg.d/90_own.cfg": "datasource_list: [None]\n",
		"data":                             strings.Repeat("some data ", 1<<18),
	} {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The installer must not follow a symlink in the image.
	if err := os.Symlink("/../../../../dev/null", filepath.Join(tree, "etc/cloud/ds-identify.cfg")); err != nil {
		t.Fatal(err)
	}
	return tree
}

// layoutImage creates an image of 140 MiB with partitions made by sgdisk, and with a
// Linux system of 64 MiB at each of the offsets, in MiB.
func layoutImage(t testing.TB, layout []string, systems ...int) string {
	t.Helper()
	raw := blank(t, 140<<20)
	command(t, tool(t, "sgdisk", "gdisk"), append(append([]string{"--clear"}, layout...), raw)...)
	for _, at := range systems {
		command(t, tool(t, "mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-d", systemTree(t),
			"-E", fmt.Sprintf("offset=%d", at<<20), raw, "64M")
	}
	return raw
}

// smallImage creates an image that passes for a Linux system: a
// partition table whose last partition is the root.
func smallImage(t testing.TB) string {
	t.Helper()
	return layoutImage(t, []string{"--new=15:1M:+8M", "--typecode=15:ef00", "--new=1:9M:+64M"}, 9)
}

// TestGuestInstallsWithDracutInitrdToNVMe uses an initrd built by dracut and a
// disk of tierDisks, whose driver is loaded only because no better disk exists.
func TestGuestInstallsWithDracutInitrdToNVMe(t *testing.T) {
	raw := smallImage(t)
	l := newLab()
	h := l.encode(t, raw)
	l.plan.MTU = 1400
	l.start(t)
	const size = 1 << 30
	disk := blank(t, size)
	last, console := l.guest(t, initrd(t, "debian-trixie-amd64-initrd-dracut"),
		"-drive", "if=none,id=disk,format=raw,file="+disk, "-device", "nvme,drive=disk,serial=1")
	wantDone(t, last)
	if !strings.Contains(console, "nvme0n1") {
		t.Errorf("console: got no disk nvme0n1, want it:\n%s", console)
	}
	l.checkReports(t, h)
	checkDisk(t, disk, size, raw)
}

// TestGuestReportsFailures checks that a failed installation reports its reason
// and leaves the disk unchanged.
func TestGuestReportsFailures(t *testing.T) {
	path := initrd(t, "debian-trixie-amd64-initrd")
	raw := smallImage(t)
	for name, c := range map[string]struct {
		size   int64
		image  string // "" is the small image
		device string // properties of the disk
		digest string
		broken bool
		want   string // regular expression for the beginning of the message
	}{
		// Writes are concurrent: any of them may be the first to fail.
		"broken disk": {
			size: 1 << 30, broken: true,
			want: `writing the image to vda: writing [1-9][0-9]* bytes at [0-9]+ of vda: input/output error`,
		},
		"disk too small": {
			size: 64 << 20,
			want: regexp.QuoteMeta("no disk for the image, which needs 146800640 bytes (146.8 MB); " +
				"disks found: vda 67.1 MB (67108864 bytes: too small)"),
		},
		"disk with larger sectors": {
			size: 1 << 30, device: ",logical_block_size=4096,physical_block_size=4096",
			want: regexp.QuoteMeta("no disk fits the image, which needs 146800640 bytes (146.8 MB); " +
				"disks found: vda 1073.7 MB (1073741824 bytes: sectors of 4096 bytes, the image is for sectors of 512)"),
		},
		"two systems": {
			size: 1 << 30, image: layoutImage(t, []string{"--new=1:1M:+64M", "--new=2:65M:+64M"}, 1, 65),
			want: "the image cannot be installed: 2 partitions hold a Linux system: ",
		},
		"wrong digest": {
			size: 1 << 30, digest: "sha256:" + strings.Repeat("0", 64),
			want: `image sha256:0{64}: image stream is damaged: its header has digest sha256:`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab()
			l.encode(t, cmp.Or(c.image, raw))
			if c.digest != "" {
				l.plan.ImagePin = c.digest
			}
			l.start(t)
			disk := blank(t, c.size)
			drive := virtioDisk(disk, "raw")
			drive[len(drive)-1] += c.device
			if c.broken {
				drive = brokenDisk(disk)
			}
			last, console := l.guest(t, path, drive...)
			if last.Stage != installerapi.StageFailed {
				t.Errorf("got last report %+v, want stage %s", last, installerapi.StageFailed)
			}
			if !regexp.MustCompile("^" + c.want).MatchString(last.Message) {
				t.Errorf("got last message %q, want %q", last.Message, c.want)
			}
			if !strings.Contains(console, "pxelab: Failed "+last.Message) {
				t.Errorf("console: got no error %q, want it:\n%s", last.Message, console)
			}
			if c.broken {
				image, err := os.ReadFile(raw)
				if err != nil {
					t.Fatal(err)
				}
				var length, at int
				if _, err := fmt.Sscanf(last.Message, "writing the image to vda: writing %d bytes at %d of vda", &length, &at); err != nil {
					t.Error(err)
				} else if at+length > len(image) || len(bytes.Trim(image[at:at+length], "\x00")) == 0 {
					t.Errorf("got a failed write of %d bytes at %d, want a range in which the image has data", length, at)
				}
			}
			written, err := os.ReadFile(disk)
			if err != nil {
				t.Fatal(err)
			}
			if len(bytes.Trim(written, "\x00")) != 0 {
				t.Error("disk: got data, want an unchanged disk")
			}
		})
	}
}
