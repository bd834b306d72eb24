// SPDX-License-Identifier: Apache-2.0

package imagelayout

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Real file systems of the images of this test. XFS of less than 300 MiB is not supported by
// its tools; the image is sparse.
const (
	bootImage = 3 << 30
	partSize  = 400 * mib
	firstUUID = "11111111-2222-3333-4444-555555555551"
	lastUUID  = "11111111-2222-3333-4444-555555555552"
)

// bootable creates an image whose partitions 1 to n, of 400 MiB each, hold file systems that
// are made from trees of files: the first is that of the firmware.
func bootable(t *testing.T, systems ...func(t *testing.T, file string)) *os.File {
	t.Helper()
	f := blank(t)
	if err := f.Truncate(bootImage); err != nil {
		t.Fatal(err)
	}
	args := []string{"--clear"}
	for i := range systems {
		args = append(args, fmt.Sprintf("--new=%d:%dM:+400M", i+1, 1+400*i))
	}
	run(t, "", tool(t, "sgdisk", "gdisk"), append(args, "--typecode=1:ef00", f.Name())...)
	for i, mkfs := range systems {
		part := filepath.Join(t.TempDir(), "part")
		made, err := os.Create(part)
		if err != nil {
			t.Fatal(err)
		}
		if err := made.Truncate(partSize); err != nil {
			t.Fatal(err)
		}
		made.Close()
		mkfs(t, part)
		content, err := os.Open(part)
		if err != nil {
			t.Fatal(err)
		}
		if err := copySparse(f, content, int64(1+400*i)*mib); err != nil {
			t.Fatal(err)
		}
		content.Close()
	}
	return f
}

// copySparse copies what is not zero.
func copySparse(to, from *os.File, offset int64) error {
	block, zero := make([]byte, mib), make([]byte, mib)
	for at := int64(0); ; at += mib {
		n, err := from.ReadAt(block, at)
		if n > 0 && !bytes.Equal(block[:n], zero[:n]) {
			if _, err := to.WriteAt(block[:n], offset+at); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// tree creates files from pairs of a path and a text.
func tree(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func makeFAT(bits string, files ...string) func(*testing.T, string) {
	return func(t *testing.T, file string) {
		run(t, "", tool(t, "mkfs.vfat", "dosfstools"), "-F", bits, file)
		if len(files) > 0 {
			run(t, "", tool(t, "mcopy", "mtools"), "-s", "-i", file, filepath.Join(tree(t, files...), "EFI"), "::")
		}
	}
}

func makeExt4(uuid string, files ...string) func(*testing.T, string) {
	return func(t *testing.T, file string) {
		run(t, "", tool(t, "mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-U", uuid, "-d", tree(t, files...), file)
	}
}

func makeBtrfs(uuid string, files ...string) func(*testing.T, string) {
	return func(t *testing.T, file string) {
		run(t, "", tool(t, "mkfs.btrfs", "btrfs-progs"), "-q", "-U", uuid, "--rootdir", tree(t, files...), file)
	}
}

func makeXFS(uuid string, files ...string) func(*testing.T, string) {
	return func(t *testing.T, file string) {
		prototype := filepath.Join(t.TempDir(), "prototype")
		if err := os.WriteFile(prototype, []byte("x\n0 0\nd--755 0 0\n"+prototypeOf(t, tree(t, files...))+"$\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "", tool(t, "mkfs.xfs", "xfsprogs"), "-q", "-m", "uuid="+uuid, "-p", prototype, file)
	}
}

// prototypeOf describes a tree for mkfs.xfs.
func prototypeOf(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := ""
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			out += e.Name() + " d--755 0 0\n" + prototypeOf(t, path) + "$\n"
		} else {
			out += e.Name() + " ---644 0 0 " + path + "\n"
		}
	}
	return out
}

const release = "etc/os-release"

// grubConfig is a configuration of GRUB that starts a system, and then another one.
func grubConfig(uuid string) string {
	return "menuentry 'Linux' {\n\tsearch --no-floppy --fs-uuid --set=root " + uuid + "\n" +
		"\tlinux\t/boot/vmlinuz root=UUID=" + uuid + " ro quiet\n}\nmenuentry 'other' {\n\tlinux /vmlinuz root=/dev/vda9\n}\n"
}

// stub is the configuration with which GRUB finds its files.
func stub(uuid, prefix string) string {
	return "search.fs_uuid " + uuid + " root hd0,gpt2 \nset prefix=($root)'" + prefix + "'\nconfigfile $prefix/grub.cfg\n"
}

// TestRootByBootLoader reads real file systems: of two systems, or of file systems that
// cannot be read, the root is the one that the boot loader starts, and without that the image
// is refused before it is written.
func TestRootByBootLoader(t *testing.T) {
	for name, c := range map[string]struct {
		systems []func(*testing.T, string)
		want    int
		err     string
	}{
		"XFS, and XFS for home": {
			systems: []func(*testing.T, string){makeFAT("32"), makeXFS(firstUUID, release, ""), makeXFS(lastUUID, "user/.profile", "")},
			want:    2,
		},
		"two systems with XFS": {
			systems: []func(*testing.T, string){makeFAT("32"), makeXFS(firstUUID, release, ""), makeXFS(lastUUID, release, "")},
			err:     "2 partitions hold a Linux system: partition 2 (xfs), partition 3 (xfs); set spec.image.root",
		},
		"two systems with btrfs": {
			systems: []func(*testing.T, string){makeFAT("32"), makeBtrfs(firstUUID, release, ""), makeBtrfs(lastUUID, release, "")},
			err:     "2 partitions may hold a Linux system, and neither their types nor the boot loader show which one does",
		},
		"two systems, the firmware starts the second": {
			systems: []func(*testing.T, string){
				makeFAT("32", "EFI/debian/grub.cfg", stub(lastUUID, "/boot/grub")), makeXFS(firstUUID, release, ""), makeBtrfs(lastUUID, release, ""),
			},
			want: 3,
		},
		"FAT16": {
			systems: []func(*testing.T, string){
				makeFAT("16", "EFI/a vendor with a long name/grub.cfg", stub(firstUUID, "/@/boot/grub")),
				makeBtrfs(firstUUID, release, ""), makeBtrfs(lastUUID, release, ""),
			},
			want: 2,
		},
		"/boot is separate": {
			systems: []func(*testing.T, string){
				makeFAT("32", "EFI/redhat/grub.cfg", stub("11111111-2222-3333-4444-555555555559", "/grub2")),
				makeExt4("11111111-2222-3333-4444-555555555559", "grub2/grub.cfg", grubConfig(lastUUID)),
				makeBtrfs(firstUUID, release, ""), makeBtrfs(lastUUID, release, ""),
			},
			want: 4,
		},
		"/boot has entries": {
			systems: []func(*testing.T, string){
				makeFAT("32"),
				makeXFS("11111111-2222-3333-4444-555555555559", "loader/entries/a.conf", "title Linux\noptions ro root=UUID="+strings.ToUpper(firstUUID)+" quiet\n"),
				makeBtrfs(firstUUID, release, ""), makeBtrfs(lastUUID, release, ""),
			},
			want: 3,
		},
		"each system starts itself": {
			systems: []func(*testing.T, string){
				makeFAT("32"), makeExt4(firstUUID, release, "", "boot/grub/grub.cfg", grubConfig(firstUUID)),
				makeExt4(lastUUID, release, "", "boot/grub/grub.cfg", grubConfig(lastUUID)),
			},
			err: "2 partitions hold a Linux system: partition 2 (ext4), partition 3 (ext4)",
		},
		"both start the first": {
			systems: []func(*testing.T, string){
				makeFAT("32"), makeXFS(firstUUID, release, "", "boot/grub2/grub.cfg", grubConfig(firstUUID)),
				makeXFS(lastUUID, release, "", "boot/grub2/grub.cfg", grubConfig(firstUUID)),
			},
			want: 2,
		},
		"the boot loader starts none of them": {
			systems: []func(*testing.T, string){
				makeFAT("32", "EFI/debian/grub.cfg", stub("99999999-2222-3333-4444-555555555559", "/boot/grub")),
				makeBtrfs(firstUUID, release, ""), makeBtrfs(lastUUID, release, ""),
			},
			err: "2 partitions may hold a Linux system",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := Read(bootable(t, c.systems...), bootImage)
			if err != nil {
				t.Fatal(err)
			}
			got, err := l.Root(Hint{})
			checkUnsupported(t, err, c.err)
			if err == nil && got.Number != c.want {
				t.Errorf("got %s, want partition %d", got, c.want)
			}
		})
	}
}

// Files are found in each form of a directory of XFS: in its inode, in a block, in several.
func TestFindsFilesInXFS(t *testing.T) {
	for _, count := range []int{0, 40, 2000} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			t.Parallel()
			files := []string{release, "ID=debian\n"}
			for i := range count {
				files = append(files, fmt.Sprintf("etc/a-file-with-a-rather-long-name-%04d", i), "")
			}
			l, err := Read(bootable(t, makeFAT("32"), makeXFS(firstUUID, files...)), bootImage)
			if err != nil {
				t.Fatal(err)
			}
			p := l.Partitions[1]
			if got, err := l.evidence(p); err != nil || got != present || p.UUID != firstUUID {
				t.Errorf("got evidence %d, %v, and UUID %s, want %d and %s", got, err, p.UUID, present, firstUUID)
			}
			fs, err := openXFS(io.NewSectionReader(l.image, p.Start, p.Size))
			if err != nil {
				t.Fatal(err)
			}
			inode, err := find(fs, release)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := fs.content(inode, 100); err != nil || string(text) != "ID=debian\n" {
				t.Errorf("got %q, %v, want the text of the file", text, err)
			}
			for _, path := range []string{"etc/os-releases", release + "/x", "x/y"} {
				if inode, err := find(fs, path); err != nil || inode != 0 {
					t.Errorf("%s: got inode %d, %v, want none", path, inode, err)
				}
			}
		})
	}
}

// hostileXFS returns a file system whose root directory has two extents at these blocks of
// it, each of 4096 bytes.
func hostileXFS(first, second uint64) []byte {
	const block, inode = 4096, 512
	b := make([]byte, 4*block)
	copy(b, "XFSB")
	be.PutUint32(b[4:], block)
	be.PutUint64(b[56:], block/inode) // the root directory is in the second block
	be.PutUint32(b[84:], 4)
	be.PutUint16(b[100:], 5)
	be.PutUint16(b[104:], inode)
	b[123] = 3
	b[124] = 2
	root := b[block:]
	copy(root, "IN")
	be.PutUint16(root[2:], xfsDirectory)
	root[4] = 3
	root[5] = xfsExtents
	be.PutUint64(root[56:], block)
	be.PutUint32(root[76:], 2)
	for k, offset := range []uint64{first, second} {
		be.PutUint64(root[176+16*k:], offset<<9)
		be.PutUint64(root[184+16*k:], 2<<21|2) // two blocks, from the third one
	}
	return b
}

// TestXFSRefusesImpossibleExtents has extents whose bytes do not fit in 63 bits.
func TestXFSRefusesImpossibleExtents(t *testing.T) {
	for name, offsets := range map[string][2]uint64{
		"an end beyond the largest byte":     {1<<51 - 1, 1<<52 - 1},
		"a place beyond the largest byte":    {0, 1<<52 - 1},
		"the first block after the last one": {1<<54 - 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			fs, err := open(ContentXFS, bytes.NewReader(hostileXFS(offsets[0], offsets[1])))
			if err != nil {
				t.Fatal(err)
			}
			if inode, err := find(fs, release); inode != 0 {
				t.Errorf("got inode %d, %v, want none", inode, err)
			}
		})
	}
}

// FuzzFilesystem reads hostile file systems: it must end.
func FuzzFilesystem(f *testing.F) {
	f.Add([]byte("XFSB"))
	f.Add(hostileXFS(0, 2))
	f.Add([]byte("\xeb\x58\x90mkfs.fat"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range []Content{ContentExt4, ContentXFS, ContentVFAT} {
			image := make([]byte, max(len(b), 1<<20))
			copy(image, b)
			fs, err := open(c, bytes.NewReader(image))
			if err != nil {
				continue
			}
			for _, path := range []string{release, "a/b/c"} {
				if inode, err := find(fs, path); err == nil && inode != 0 {
					_, _ = fs.content(inode, maxBootConfig)
				}
			}
			_, _ = fs.content(fs.root(), maxBootConfig)
		}
	})
}
