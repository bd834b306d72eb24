// SPDX-License-Identifier: Apache-2.0

package imagelayout

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const mib = 1 << 20

// tool finds a program, also in the sbin directories, which are not on every
// user's PATH.
func tool(t testing.TB, name, pkg string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name, "/sbin/" + name, "/usr/local/sbin/" + name} {
		if found, err := exec.LookPath(p); err == nil {
			return found
		}
	}
	t.Fatalf("%s is missing (Debian: package %s; `make deps` installs it)", name, pkg)
	return ""
}

func run(t testing.TB, input, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// blank creates an empty image of 64 MiB.
func blank(t testing.TB) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "image"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(64 * mib); err != nil {
		t.Fatal(err)
	}
	return f
}

// partitioned creates an image with a GUID partition table.
func partitioned(t testing.TB, args ...string) *os.File {
	t.Helper()
	f := blank(t)
	run(t, "", tool(t, "sgdisk", "gdisk"), append(append([]string{"--clear"}, args...), f.Name())...)
	return f
}

// mkfs creates an ext file system of 8 MiB with empty files at an offset in MiB.
func mkfs(t testing.TB, f *os.File, at int, options []string, files ...string) {
	t.Helper()
	tree := t.TempDir()
	for _, name := range files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := append([]string{"-q", "-F", "-d", tree, "-E", fmt.Sprintf("offset=%d", at*mib)}, options...)
	run(t, "", tool(t, "mke2fs", "e2fsprogs"), append(args, f.Name(), "8M")...)
}

func write(t testing.TB, f *os.File, at int64, text string) {
	t.Helper()
	if _, err := f.WriteAt([]byte(text), at); err != nil {
		t.Fatal(err)
	}
}

// A signature of each content at its place in a partition.
const (
	xfsMagic = "XFSB"
	lvm      = "LABELONE"
)

// threePartitions has partition 1 at 1 MiB, 2 at 9 MiB and 3 at 17 MiB.
var threePartitions = []string{"--new=1:1M:+8M", "--new=2:9M:+8M", "--new=3:17M:+8M"}

var ext4 = []string{"-t", "ext4"}

func TestRoot(t *testing.T) {
	const system, link = "etc/os-release", "usr/lib/os-release"
	for name, c := range map[string]struct {
		image func(t *testing.T) *os.File
		hint  Hint
		want  int
		err   string // a part of the message
	}{
		"only one candidate": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, "--new=15:1M:+8M", "--typecode=15:ef00", "--new=1:9M:+8M")
				mkfs(t, f, 9, ext4)
				return f
			},
			want: 1,
		},
		"boot comes last": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, threePartitions...)
				mkfs(t, f, 9, ext4, link)
				mkfs(t, f, 17, []string{"-t", "ext2"}, "grub/grub.cfg", "vmlinuz")
				return f
			},
			want: 2,
		},
		"home comes last": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, append(threePartitions, "--typecode=3:8302")...)
				mkfs(t, f, 9, ext4, system)
				mkfs(t, f, 17, ext4, "user/.profile")
				return f
			},
			want: 2,
		},
		"swap comes last": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, append(threePartitions, "--typecode=3:8200")...)
				mkfs(t, f, 9, ext4, system)
				write(t, f, 17*mib+4086, "SWAPSPACE2")
				return f
			},
			want: 2,
		},
		"type of a root partition": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, append(threePartitions, "--typecode=2:8304")...)
				write(t, f, 1*mib, xfsMagic)
				write(t, f, 9*mib, xfsMagic)
				write(t, f, 17*mib, xfsMagic)
				return f
			},
			want: 2,
		},
		"two systems": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, threePartitions...)
				mkfs(t, f, 9, append(ext4, "-L", "first"), system)
				mkfs(t, f, 17, ext4, system)
				return f
			},
			err: `2 partitions hold a Linux system: partition 2 (ext4 "first"), partition 3 (ext4); set spec.image.root`,
		},
		"two systems, number given": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, threePartitions...)
				mkfs(t, f, 9, ext4, system)
				mkfs(t, f, 17, ext4, system)
				return f
			},
			hint: Hint{Number: 3}, want: 3,
		},
		"two systems, label given": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, threePartitions...)
				mkfs(t, f, 9, append(ext4, "-L", "first"), system)
				mkfs(t, f, 17, append(ext4, "-L", "second"), system)
				return f
			},
			hint: Hint{Label: "first"}, want: 2,
		},
		"hint without a partition": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, threePartitions...)
				mkfs(t, f, 9, ext4, system)
				return f
			},
			hint: Hint{Number: 7}, err: "spec.image.root of the profile selects none of its partitions: partition 1 (a Linux file system)",
		},
		"hint for swap": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, append(threePartitions, "--typecode=3:8200")...)
				write(t, f, 17*mib+4086, "SWAPSPACE2")
				return f
			},
			hint: Hint{Number: 3}, err: "selects partition 3 (swap), which is not ext4, xfs or btrfs",
		},
		"content unreadable": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, threePartitions...)
				write(t, f, 1*mib, xfsMagic)
				write(t, f, 9*mib+64<<10+64, "_BHRfS_M")
				mkfs(t, f, 17, ext4, "home")
				return f
			},
			err: "2 partitions may hold a Linux system, and neither their types nor the boot loader show which one does: " +
				"partition 1 (xfs), partition 2 (btrfs); set spec.image.root",
		},
		"one system beside content that is unreadable": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, threePartitions...)
				write(t, f, 1*mib, xfsMagic)
				mkfs(t, f, 17, ext4, system)
				return f
			},
			want: 3,
		},
		"no system": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, threePartitions...)
				mkfs(t, f, 1, ext4, "a")
				mkfs(t, f, 9, ext4, "etc/b")
				return f
			},
			err: "no partition has etc/os-release or usr/lib/os-release: partition 1 (ext4), partition 2 (ext4)",
		},
		"LVM": {
			image: func(t *testing.T) *os.File {
				f := partitioned(t, append(threePartitions, "--typecode=3:8e00")...)
				write(t, f, 17*mib+512, lvm)
				return f
			},
			err: "its partition 3 (LVM) is an LVM physical volume, which is not supported",
		},
		"file system on the whole disk": {
			image: func(t *testing.T) *os.File {
				f := blank(t)
				mkfs(t, f, 0, ext4, system)
				return f
			},
			want: 0,
		},
		"MBR with a logical partition": {
			image: func(t *testing.T) *os.File {
				f := blank(t)
				run(t, "label: dos\nstart=2048, size=8M, type=ef\nstart=18432, size=30M, type=5\nstart=20480, size=10M, type=83\n",
					tool(t, "sfdisk", "fdisk"), "-q", f.Name())
				mkfs(t, f, 10, ext4, system)
				return f
			},
			want: 5,
		},
		"nothing known": {image: func(t *testing.T) *os.File { return blank(t) }, err: "neither a partition table nor a file system"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := Read(c.image(t), 64*mib)
			if err != nil {
				t.Fatal(err)
			}
			root, err := l.Root(c.hint)
			checkUnsupported(t, err, c.err)
			if err == nil && root.Number != c.want {
				t.Errorf("got %s, want partition %d", root, c.want)
			}
		})
	}
}

// checkUnsupported checks for an UnsupportedError with a part of its message, or no
// error if that is empty.
func checkUnsupported(t *testing.T, err error, part string) {
	t.Helper()
	var refused *UnsupportedError
	if part == "" {
		if err != nil {
			t.Errorf("got error %v, want none", err)
		}
		return
	}
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), part) {
		t.Errorf("got error %v, want an *UnsupportedError with %q", err, part)
	}
}

// The files of a system are found in each form of ext, in a directory of many blocks and
// with an index.
func TestFindsSystemInEveryExt(t *testing.T) {
	files := []string{"etc/os-release"}
	for i := range 900 {
		files = append(files, fmt.Sprintf("etc/a-file-with-a-rather-long-name-%04d", i))
	}
	for name, options := range map[string][]string{
		"ext2":            {"-t", "ext2", "-b", "1024"},
		"ext3":            {"-t", "ext3"},
		"ext4":            {"-t", "ext4"},
		"ext4, 1 KiB":     {"-t", "ext4", "-b", "1024"},
		"ext4, no 64 bit": {"-t", "ext4", "-O", "^64bit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := blank(t)
			mkfs(t, f, 0, append(options, "-N", "2000"), files...)
			if got := systemOn(t, f); got != present {
				t.Errorf("with os-release: got evidence %d, want %d", got, present)
			}
			f = blank(t)
			mkfs(t, f, 0, append(options, "-N", "2000"), files[1:]...)
			if got := systemOn(t, f); got != absent {
				t.Errorf("without os-release: got evidence %d, want %d", got, absent)
			}
		})
	}
}

func systemOn(t *testing.T, f *os.File) evidence {
	t.Helper()
	l, err := Read(f, 64*mib)
	if err != nil || len(l.Partitions) != 1 {
		t.Fatalf("got layout %+v, %v, want one file system", l, err)
	}
	got, err := l.evidence(l.Partitions[0])
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestReadSectorSize(t *testing.T) {
	f := blank(t)
	run(t, "g\nn\n1\n\n+8M\nn\n2\n\n\nw\n", tool(t, "fdisk", "fdisk"), "--sector-size", "4096", f.Name())
	l, err := Read(f, 64*mib)
	if err != nil {
		t.Fatal(err)
	}
	if l.Scheme != SchemeGPT || l.SectorSize != 4096 || len(l.Partitions) != 2 {
		t.Errorf("got %+v, want two partitions of a GPT for sectors of 4096 bytes", l)
	}
	l, err = Read(partitioned(t, threePartitions...), 64*mib)
	if err != nil || l.SectorSize != 512 {
		t.Errorf("got %+v, %v, want a table for sectors of 512 bytes", l, err)
	}
}

// Damage is reported with its cause.
func TestReadRefusesDamage(t *testing.T) {
	for name, c := range map[string]struct {
		at   int64
		text string
		want string
	}{
		"header":            {512 + 72, "x", "damaged GUID partition table: wrong header checksum; repair"},
		"entries":           {1024 + 60, "x", "damaged GUID partition table: wrong checksum of entries"},
		"no primary table":  {0, strings.Repeat("\x00", 34*512), "its GUID partition table is missing, the backup of the table is not"},
		"no protective MBR": {0, strings.Repeat("\x00", 512), "has no protective MBR"},
	} {
		t.Run(name, func(t *testing.T) {
			f := partitioned(t, threePartitions...)
			write(t, f, c.at, c.text)
			_, err := Read(f, 64*mib)
			checkUnsupported(t, err, c.want)
		})
	}
}

func TestCheck(t *testing.T) {
	lvmOnly := partitioned(t, threePartitions...)
	write(t, lvmOnly, 9*mib+512, lvm)
	checkUnsupported(t, Check(lvmOnly, 64*mib), "is an LVM physical volume")
	unreadable := partitioned(t, threePartitions...)
	write(t, unreadable, 9*mib, xfsMagic)
	checkUnsupported(t, Check(unreadable, 64*mib), "")
	checkUnsupported(t, Check(blank(t), 64*mib), "")
}

// broken fails all reads after the first few.
type broken struct {
	io.ReaderAt
	left int
}

var errBroken = errors.New("connection lost")

func (b *broken) ReadAt(p []byte, off int64) (int, error) {
	if b.left--; b.left < 0 {
		return 0, errBroken
	}
	return b.ReaderAt.ReadAt(p, off)
}

// An error of the image is not mistaken for its content.
func TestErrorsOfImage(t *testing.T) {
	f := partitioned(t, threePartitions...)
	mkfs(t, f, 9, ext4, "etc/os-release")
	mkfs(t, f, 17, ext4, "etc/os-release")
	for reads := 0; ; reads++ {
		if reads > 1000 {
			t.Fatal("got an error after 1000 reads, want none")
		}
		l, err := Read(&broken{f, reads}, 64*mib)
		if err == nil {
			_, err = l.Root(Hint{})
		}
		var refused *UnsupportedError
		if errors.As(err, &refused) {
			return // all was read
		}
		if !errors.Is(err, errBroken) {
			t.Fatalf("after %d reads: got error %v, want %v", reads, err, errBroken)
		}
	}
}

// FuzzRead reads hostile images: it must end, and every partition lies in the image.
func FuzzRead(f *testing.F) {
	const size = 2 * mib
	disk := partitioned(f, "--new=1:1M:+8M", "--new=2:9M:+8M", "--typecode=2:8200")
	head := make([]byte, 40*512)
	if _, err := disk.ReadAt(head, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(slices.Clone(head))
	dos := blank(f)
	run(f, "label: dos\nsize=8M, type=83\nsize=30M, type=5\nsize=10M, type=83\n", tool(f, "sfdisk", "fdisk"), "-q", dos.Name())
	if _, err := dos.ReadAt(head, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(slices.Clone(head))
	file := blank(f)
	mkfs(f, file, 0, []string{"-t", "ext2", "-b", "1024"}, "etc/os-release")
	ext := make([]byte, size)
	if _, err := file.ReadAt(ext, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(ext)
	f.Fuzz(func(t *testing.T, b []byte) {
		image := make([]byte, size)
		copy(image, b)
		l, err := Read(strings.NewReader(string(image)), size)
		if err != nil {
			return
		}
		for _, p := range l.Partitions {
			if p.Start < 0 || p.Size < 0 || p.Start+p.Size > size {
				t.Fatalf("got partition %+v, want one within %d bytes", p, size)
			}
			_, _ = l.evidence(p)
		}
		_, _ = l.Root(Hint{})
	})
}
