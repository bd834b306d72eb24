// SPDX-License-Identifier: Apache-2.0

//go:build linux && images

// Package images_test checks the images that "make images" built, with tools
// that had no part in building them. It builds nothing itself: it reads
// <cache>/images, or the folder that PXELAB_IMAGES_DIR names.
package images_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const suite = "trixie"

// arch is what differs between the images.
type arch struct {
	name       string
	peMachine  uint16
	elfMachine uint16
	bootFile   string
	console    string
}

var arches = []arch{
	{"amd64", pe.IMAGE_FILE_MACHINE_AMD64, 0x3e, "BOOTX64.EFI", "ttyS0"},
	{"arm64", pe.IMAGE_FILE_MACHINE_ARM64, 0xb7, "BOOTAA64.EFI", "ttyAMA0"},
}

func (a arch) file(kind string) string {
	return "debian-" + suite + "-" + a.name + kind
}

// imagesDir is where make images puts its outputs.
func imagesDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("PXELAB_IMAGES_DIR"); dir != "" {
		return dir
	}
	if dir := os.Getenv("PXELAB_CACHE_DIR"); dir != "" {
		return filepath.Join(dir, "images")
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "pxelab", "images")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(home, ".cache", "pxelab", "images")
}

func TestSumsCoverAndMatchEveryOutput(t *testing.T) {
	want := map[string][]string{"ipxe": {"ipxe-x86_64.efi", "ipxe-arm64.efi"}}
	for _, a := range arches {
		for _, kind := range []string{".qcow2", "-vmlinuz", "-initrd", "-initrd-dracut"} {
			want["debian"] = append(want["debian"], a.file(kind))
		}
	}
	for folder, files := range want {
		dir := filepath.Join(imagesDir(t), folder)
		sums := readSums(t, filepath.Join(dir, "SHA256SUMS"))
		for _, file := range files {
			listed, ok := sums[file]
			if !ok {
				t.Errorf("%s/SHA256SUMS: got no line for %s, want one", folder, file)
				continue
			}
			if got := sha256File(t, filepath.Join(dir, file)); got != listed {
				t.Errorf("%s/%s: got sha256 %s, want %s as in SHA256SUMS", folder, file, got, listed)
			}
		}
	}
}

func TestDisk(t *testing.T) {
	for _, a := range arches {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			image := filepath.Join(imagesDir(t), "debian", a.file(".qcow2"))
			checkQcow2(t, image)
			raw := filepath.Join(t.TempDir(), "disk.raw")
			run(t, "qemu-img", "convert", "-O", "raw", image, raw)
			if out := run(t, "sgdisk", "--verify", raw); !strings.Contains(out, "No problems found") {
				t.Errorf("sgdisk --verify: got %s, want \"No problems found\"", out)
			}
			root, esp := readPartition(t, raw, 1), readPartition(t, raw, 15)
			if esp.kind != "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" {
				t.Errorf("partition 15 has type %s, want an EFI system partition", esp.kind)
			}
			if root.first <= esp.last {
				t.Errorf("got root in sectors %d-%d, want it after the ESP in %d-%d", root.first, root.last, esp.first, esp.last)
			}
			checkESP(t, raw, esp, a)
			checkRoot(t, raw, root, a)
		})
	}
}

// checkQcow2 reads the header itself: version 3, nothing behind it, zstd.
func checkQcow2(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatalf("%v (built by make images)", err)
	}
	defer file.Close()
	header := make([]byte, 112)
	if _, err := io.ReadFull(file, header); err != nil {
		t.Fatal(err)
	}
	be := binary.BigEndian
	if got := be.Uint32(header); got != 0x514649fb {
		t.Fatalf("%s: got magic %#x, want that of qcow2, 0x514649fb", path, got)
	}
	if got := be.Uint32(header[4:]); got != 3 {
		t.Errorf("got qcow2 version %d, want 3", got)
	}
	if got := be.Uint64(header[8:]); got != 0 {
		t.Errorf("got a backing file (name at %d), want none", got)
	}
	const zstdCompression = 1
	if got := header[104]; got != zstdCompression {
		t.Errorf("got compression type %d, want zstd (1)", got)
	}
}

func checkESP(t *testing.T, raw string, esp partition, a arch) {
	t.Helper()
	program := filepath.Join(t.TempDir(), a.bootFile)
	run(t, "mcopy", "-i", fmt.Sprintf("%s@@%d", raw, esp.first*512), "::/EFI/BOOT/"+a.bootFile, program)
	checkPE(t, program, a.peMachine)
}

// checkRoot reads the root file system with debugfs, without mounting it.
func checkRoot(t *testing.T, raw string, root partition, a arch) {
	t.Helper()
	fs := filepath.Join(t.TempDir(), "root.ext4")
	cutOut(t, raw, root, fs)
	run(t, "e2fsck", "-fn", fs)
	debugfs := func(command string) string { return run(t, "debugfs", "-R", command, fs) }

	const label = "debian-root"
	if got := strings.TrimSpace(run(t, "e2label", fs)); got != label {
		t.Errorf("got root label %q, want %q", got, label)
	}
	if got := debugfs("cat /etc/fstab"); !strings.HasPrefix(got, "LABEL="+label+" / ext4 ") {
		t.Errorf("fstab: got %q, want the root by its label %q", got, label)
	}
	if got := debugfs("cat /etc/machine-id"); got != "" {
		t.Errorf("machine-id: got %q, want none", got)
	}
	if got := debugfs("ls -p /etc/ssh"); strings.Contains(got, "ssh_host_") {
		t.Errorf("/etc/ssh: got %s, want no host keys", got)
	}
	for line := range strings.Lines(debugfs("cat /etc/shadow")) {
		if fields := strings.Split(line, ":"); !strings.HasPrefix(fields[1], "*") && !strings.HasPrefix(fields[1], "!") {
			t.Errorf("user %s: got password %q, want none to log in with", fields[0], fields[1])
		}
	}
	if got := debugfs("cat /etc/cloud/cloud.cfg.d/90_lab.cfg"); !strings.Contains(got, "datasource_list: [ NoCloud, None ]") {
		t.Errorf("configuration of cloud-init: got %s, want the NoCloud data source only", got)
	}
	for _, leftover := range []string{
		"/usr/sbin/policy-rc.d", "/lab-out", "/lab-grub", "/lab-tools", "/lab-native.diverted", "/etc/apt/sources.list",
	} {
		if got := debugfs("stat " + leftover); !strings.Contains(got, "not found") {
			t.Errorf("got %s of the build in the image, want none", leftover)
		}
	}
	if got := debugfs("cat /var/lib/dpkg/diversions"); strings.Contains(got, ".foreign") {
		t.Errorf("got diversions of the build in the image, want none: %s", got)
	}
	for _, program := range []string{
		"/usr/bin/bash", "/usr/bin/dash", "/usr/bin/perl", "/usr/bin/python3.13", "/usr/bin/dpkg-deb", "/usr/bin/tar",
		"/usr/bin/sed", "/usr/sbin/sshd",
	} {
		file := filepath.Join(t.TempDir(), "program")
		debugfs("dump " + program + " " + file)
		data, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%s: got error %v, want a program", program, err)
			continue
		}
		if machine := elfMachine(data); machine != a.elfMachine {
			t.Errorf("%s: got ELF machine %#x, want %#x of %s", program, machine, a.elfMachine, a.name)
		}
	}
}

func TestKernel(t *testing.T) {
	for _, a := range arches {
		checkPE(t, filepath.Join(imagesDir(t), "debian", a.file("-vmlinuz")), a.peMachine)
	}
}

// TestInitrd asserts what the installer needs of an initrd: its kernel modules,
// and programs of the right architecture. Modules that the kernel has built in
// (nvme, ext4) are not in the list.
func TestInitrd(t *testing.T) {
	modules := []string{"virtio_net", "virtio_blk", "virtio_scsi", "sd_mod"}
	for _, a := range arches {
		for _, kind := range []string{"-initrd", "-initrd-dracut"} {
			t.Run(a.name+kind, func(t *testing.T) {
				t.Parallel()
				files := readInitrd(t, filepath.Join(imagesDir(t), "debian", a.file(kind)))
				if len(files) < 100 {
					t.Fatalf("got %d files, want at least 100", len(files))
				}
				for _, module := range modules {
					if !hasModule(files, module) {
						t.Errorf("got no module %s, want it", module)
					}
				}
				for name, data := range files {
					if machine := elfMachine(data); machine != 0 && machine != a.elfMachine {
						t.Errorf("%s: got ELF machine %#x, want %#x", name, machine, a.elfMachine)
					}
				}
			})
		}
	}
}

// TestIPXE asserts a build that knows initrd=initrd.magic: 2021 or later.
func TestIPXE(t *testing.T) {
	version := regexp.MustCompile(`ipxe,1,iPXE,[^,]*,1\.(\d+)\.\d+\+git-?(\d{4})`)
	for file, machine := range map[string]uint16{
		"ipxe-x86_64.efi": pe.IMAGE_FILE_MACHINE_AMD64,
		"ipxe-arm64.efi":  pe.IMAGE_FILE_MACHINE_ARM64,
	} {
		path := filepath.Join(imagesDir(t), "ipxe", file)
		checkPE(t, path, machine)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		match := version.FindSubmatch(data)
		if match == nil {
			t.Errorf("%s: got no version, want one", file)
			continue
		}
		if year, err := strconv.Atoi(string(match[2])); err != nil || year < 2021 {
			t.Errorf("%s: got a version of the year %s, want 2021 or later", file, match[2])
		}
	}
}

func readSums(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatalf("%v (built by make images)", err)
	}
	defer file.Close()
	sums := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 2 {
			sums[fields[1]] = fields[0]
		}
	}
	return sums
}

func sha256File(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// run executes a command and returns its standard output and error.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		name = filepath.Join("/usr/sbin", name)
	}
	var stdout, stderr bytes.Buffer
	command := exec.Command(name, args...)
	command.Stdout = &stdout
	command.Stderr = &stderr
	if err := command.Run(); err != nil {
		t.Fatalf("%s: %v: %s%s", command, err, stdout.Bytes(), stderr.Bytes())
	}
	// debugfs greets on standard error and reports "not found" there.
	if base := filepath.Base(name); base == "debugfs" && strings.Contains(stderr.String(), "not found") {
		return stderr.String()
	}
	return stdout.String()
}

// partition is one entry of a GPT; sectors of 512 bytes, last included.
type partition struct {
	first, last int64
	kind        string
}

func readPartition(t *testing.T, raw string, number int) partition {
	t.Helper()
	out := run(t, "sgdisk", "--info="+strconv.Itoa(number), raw)
	field := func(pattern string) string {
		match := regexp.MustCompile(pattern).FindStringSubmatch(out)
		if match == nil {
			t.Fatalf("partition %d: got no %q, want it in %s", number, pattern, out)
		}
		return match[1]
	}
	sector := func(pattern string) int64 {
		n, err := strconv.ParseInt(field(pattern), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return partition{
		first: sector(`First sector: (\d+)`),
		last:  sector(`Last sector: (\d+)`),
		kind:  field(`Partition GUID code: (\S+)`),
	}
}

func cutOut(t *testing.T, raw string, p partition, path string) {
	t.Helper()
	run(t, "dd", "if="+raw, "of="+path, "bs=1M", "conv=sparse",
		"iflag=skip_bytes,count_bytes", fmt.Sprintf("skip=%d", p.first*512), fmt.Sprintf("count=%d", (p.last-p.first+1)*512))
	if err := os.Truncate(path, (p.last-p.first+1)*512); err != nil {
		t.Fatal(err)
	}
}

func checkPE(t *testing.T, path string, machine uint16) {
	t.Helper()
	file, err := pe.Open(path)
	if err != nil {
		t.Errorf("%s: got error %v, want a PE program", path, err)
		return
	}
	defer file.Close()
	if file.Machine != machine {
		t.Errorf("%s: got PE machine %#x, want %#x", path, file.Machine, machine)
	}
}

// elfMachine is the e_machine of a 64-bit little-endian ELF file, 0 for others.
func elfMachine(data []byte) uint16 {
	if len(data) < 20 || !bytes.HasPrefix(data, []byte("\x7fELF\x02\x01")) {
		return 0
	}
	return binary.LittleEndian.Uint16(data[18:])
}

func hasModule(files map[string][]byte, module string) bool {
	for name := range files {
		base, _, found := strings.Cut(filepath.Base(name), ".ko")
		if found && strings.ReplaceAll(base, "-", "_") == module {
			return true
		}
	}
	return false
}

// readInitrd reads the regular files of an initrd: any number of cpio archives
// (newc) one after the other, plain or compressed, as the kernel reads them
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func readInitrd(t *testing.T, path string) map[string][]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (built by make images)", err)
	}
	files := map[string][]byte{}
	for {
		data = bytes.TrimLeft(data, "\x00")
		switch {
		case len(data) == 0:
			return files
		case bytes.HasPrefix(data, []byte("070701")):
			data = readCpio(t, data, files)
		case bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}):
			decoder, err := zstd.NewReader(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			data = readAll(t, decoder)
			decoder.Close()
		case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
			decoder, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			data = readAll(t, decoder)
		default:
			t.Fatalf("%s: got an archive that starts with % x, want cpio, zstd or gzip", path, data[:min(len(data), 8)])
		}
	}
}

func readAll(t *testing.T, r io.Reader) []byte {
	t.Helper()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// readCpio adds one archive's regular files and returns what follows it.
func readCpio(t *testing.T, data []byte, files map[string][]byte) []byte {
	t.Helper()
	align := func(n int) int { return (n + 3) &^ 3 }
	const headerSize = 110
	for {
		if len(data) < headerSize || !bytes.HasPrefix(data, []byte("070701")) {
			t.Fatalf("archive in the initrd: got %d bytes, want a header of %d", len(data), headerSize)
		}
		number := func(field int) int {
			n, err := strconv.ParseUint(string(data[6+8*field:14+8*field]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		mode, size, nameSize := number(1), number(6), number(11)
		body := align(headerSize + nameSize)
		name := string(data[headerSize : headerSize+nameSize-1])
		const typeMask, regular = 0o170000, 0o100000
		if mode&typeMask == regular {
			files[name] = data[body : body+size]
		}
		data = data[min(align(body+size), len(data)):]
		if name == "TRAILER!!!" {
			return data
		}
	}
}
