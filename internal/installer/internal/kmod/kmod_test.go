// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const release = "6.1.0-test"

func tree(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func fixture(base string) map[string]string {
	dir := base + "/" + release + "/"
	return map[string]string{
		dir + "modules.dep": "kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n" +
			"kernel/net/core/failover.ko:\n" +
			"kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\n" +
			"kernel/drivers/virtio/virtio-pci.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz\n" +
			"kernel/drivers/virtio/virtio_ring.ko.xz:\n" +
			"kernel/fs/ext4/ext4.ko.zst: kernel/fs/jbd2/jbd2.ko.zst\n" +
			"kernel/fs/jbd2/jbd2.ko.zst:\n" +
			"kernel/crypto/crc32c-intel.ko:\nkernel/crypto/crc32c_generic.ko:\n" +
			"/updates/vendor_nic.ko:\n",
		dir + "modules.alias": "# Aliases extracted from modules themselves.\n" +
			"alias virtio:d00000001v* virtio_net\n" +
			"alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\n" +
			"alias pci:v00008086d0000153[AB]sv*sd*bc*sc*i* vendor_nic\n" +
			"alias acpi*:LNRO0005:* virtio_pci\n" +
			"alias fs-ext4 ext4\n" +
			"alias crypto-crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\n",
		dir + "modules.softdep": "softdep ext4 pre: crypto-crc32c post: vendor_nic\n",
	}
}

func TestLookup(t *testing.T) {
	for _, base := range []string{"lib/modules", "usr/lib/modules"} {
		x, err := Open(tree(fixture(base)), release, "")
		if err != nil {
			t.Fatal(err)
		}
		for modalias, want := range map[string][]string{
			"virtio:d00000001v00001AF4":                             {"virtio_net"},
			"virtio:d00000002v00001AF4":                             nil,
			"pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00": {"virtio_pci"},
			"pci:v00008086d0000153Asv00000000sd00000000bc02sc00i00": {"vendor_nic"},
			"pci:v00008086d0000153Csv00000000sd00000000bc02sc00i00": nil,
			"acpi:LNRO0005:":                   {"virtio_pci"},
			"fs-ext4":                          {"ext4"},
			"crypto-crc32c":                    {"crc32c_intel", "crc32c_generic"},
			"of:NethernetT(null)Cvendor,thing": nil,
			"pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00iFFtrailing*": {"virtio_pci"},
		} {
			if diff := cmp.Diff(want, x.Lookup(modalias)); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", base, modalias, diff)
			}
		}
	}
}

func TestPlanPutsDependenciesFirst(t *testing.T) {
	x, err := Open(tree(fixture("lib/modules")), release, "vendor_nic.speed=10 ro quiet vendor-nic.duplex=full")
	if err != nil {
		t.Fatal(err)
	}
	dir := "lib/modules/" + release + "/"
	for name, want := range map[string][]Module{
		"virtio_net": {
			{Name: "failover", Path: dir + "kernel/net/core/failover.ko"},
			{Name: "net_failover", Path: dir + "kernel/drivers/net/net_failover.ko"},
			{Name: "virtio_net", Path: dir + "kernel/drivers/net/virtio_net.ko"},
		},
		"virtio-pci": {
			{Name: "virtio_ring", Path: dir + "kernel/drivers/virtio/virtio_ring.ko.xz"},
			{Name: "virtio_pci", Path: dir + "kernel/drivers/virtio/virtio-pci.ko.xz"},
		},
		"ext4": {
			{Name: "crc32c_intel", Path: dir + "kernel/crypto/crc32c-intel.ko"},
			{Name: "crc32c_generic", Path: dir + "kernel/crypto/crc32c_generic.ko"},
			{Name: "jbd2", Path: dir + "kernel/fs/jbd2/jbd2.ko.zst"},
			{Name: "ext4", Path: dir + "kernel/fs/ext4/ext4.ko.zst"},
			{Name: "vendor_nic", Path: "updates/vendor_nic.ko", Options: "speed=10 duplex=full"},
		},
		"built_in_thing": nil,
	} {
		if diff := cmp.Diff(want, x.Plan(name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestBlacklistAndOptions(t *testing.T) {
	files := fixture("lib/modules")
	files["etc/modprobe.d/a.conf"] = "# comment\nblacklist crc32c-generic\noptions virtio_net napi_tx=0 \\\n gso=1\n"
	files["etc/modprobe.d/ignored.txt"] = "blacklist virtio_net\n"
	x, err := Open(tree(files), release, "modprobe.blacklist=vendor_nic")
	if err != nil {
		t.Fatal(err)
	}
	if got := x.Lookup("crypto-crc32c"); !slices.Equal(got, []string{"crc32c_intel"}) {
		t.Errorf("got %v, want only crc32c_intel: crc32c_generic is blacklisted", got)
	}
	if got := x.Lookup("pci:v00008086d0000153Asv0sd0bc02sc00i00"); got != nil {
		t.Errorf("got %v, want none: the kernel command line blacklists vendor_nic", got)
	}
	plan := x.Plan("virtio_net")
	const options = "napi_tx=0 gso=1"
	if got := plan[len(plan)-1].Options; got != options {
		t.Errorf("got options %q, want %q", got, options)
	}
}

func TestOpenWithoutModules(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"other release": {"lib/modules/5.0/modules.dep": ""},
		"no index":      {"lib/modules/" + release + "/kernel/x.ko": ""},
	} {
		if _, err := Open(tree(files), release, ""); !errors.Is(err, ErrNoModules) {
			t.Errorf("%s: got error %v, want %v", name, err, ErrNoModules)
		}
	}
}

// A kernel without modules has all drivers built in: nothing is found and nothing fails.
func TestEmptyIndex(t *testing.T) {
	x := Empty()
	if got := x.Lookup("pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00"); got != nil {
		t.Errorf("got modules %v, want none", got)
	}
	if got := x.Plan("ext4"); got != nil {
		t.Errorf("got modules %v to load, want none", got)
	}
}

// The binary index has the same content as the text index, and a truncated one
// is refused.
func TestBinaryIndex(t *testing.T) {
	files := fixture("lib/modules")
	dir := "lib/modules/" + release + "/"
	text, err := Open(tree(files), release, "")
	if err != nil {
		t.Fatal(err)
	}
	m := tree(files)
	delete(m, dir+"modules.dep")
	delete(m, dir+"modules.alias")
	m[dir+"modules.dep.bin"] = &fstest.MapFile{Data: binaryIndex(map[string]string{
		"virtio_net":   "kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko",
		"failover":     "kernel/net/core/failover.ko:",
		"net_failover": "kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko",
	})}
	m[dir+"modules.alias.bin"] = &fstest.MapFile{Data: binaryIndex(map[string]string{
		"virtio:d00000001v*":            "virtio_net",
		"pci:v00001AF4d*sv*sd*bc*sc*i*": "virtio_pci",
	})}
	bin, err := Open(m, release, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, modalias := range []string{"virtio:d00000001v00001AF4", "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00"} {
		if diff := cmp.Diff(text.Lookup(modalias), bin.Lookup(modalias)); diff != "" {
			t.Errorf("%s (-text +binary):\n%s", modalias, diff)
		}
	}
	if diff := cmp.Diff(text.Plan("virtio_net"), bin.Plan("virtio_net")); diff != "" {
		t.Errorf("plan (-text +binary):\n%s", diff)
	}
	for n := range m[dir+"modules.alias.bin"].Data {
		cut := tree(files)
		delete(cut, dir+"modules.alias")
		cut[dir+"modules.alias.bin"] = &fstest.MapFile{Data: m[dir+"modules.alias.bin"].Data[:n]}
		if _, err := Open(cut, release, ""); err == nil {
			t.Fatalf("got no error for an index truncated to %d of %d bytes, want one", n, len(m[dir+"modules.alias.bin"].Data))
		}
	}
}

// binaryIndex encodes entries in depmod's format: a root node with one child for
// each first byte, and in each child the rest of the key as prefix and its value.
// Keys must differ in their first byte.
func binaryIndex(entries map[string]string) []byte {
	be := binary.BigEndian
	byFirst := map[byte][2]string{}
	lo, hi := byte(255), byte(0)
	for k, v := range entries {
		byFirst[k[0]] = [2]string{k[1:], v}
		lo, hi = min(lo, k[0]), max(hi, k[0])
	}
	b := be.AppendUint32(nil, binaryMagic)
	b = be.AppendUint32(b, 0x00020001)
	b = be.AppendUint32(b, 0)
	refs := make([]uint32, int(hi)-int(lo)+1)
	for c, kv := range byFirst {
		refs[c-lo] = uint32(len(b)) | nodePrefix | nodeValues
		b = append(append(b, kv[0]...), 0)
		b = be.AppendUint32(b, 1)
		b = be.AppendUint32(b, 7)
		b = append(append(b, kv[1]...), 0)
	}
	be.PutUint32(b[8:], uint32(len(b))|nodeChildren)
	b = append(b, lo, hi)
	for _, r := range refs {
		b = be.AppendUint32(b, r)
	}
	return b
}

func TestMatchGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"*", "", true}, {"*", "a/b", true}, {"a*c", "abbbc", true}, {"a*c", "abbb", false},
		{"a*b*c", "aXbYbZc", true}, {"?", "", false}, {"?x", "ax", true}, {"[a-c]x", "bx", true},
		{"[!a-c]x", "bx", false}, {"[!a-c]x", "dx", true}, {"[]]", "]", true}, {"[ab", "[ab", true},
		{`\*`, "*", true}, {`\*`, "a", false}, {"a", "ab", false}, {"ab", "a", false}, {"*a", "aaab", false}, {"*ab", "aaab", true},
	} {
		if got := matchGlob(c.pattern, c.s); got != c.want {
			t.Errorf("matchGlob(%q, %q) = %v, want %v", c.pattern, c.s, got, c.want)
		}
	}
}

func FuzzMatchGlob(f *testing.F) {
	f.Add("a[*]b\\", "a*b")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if got := matchGlob(pattern, s); !strings.ContainsAny(pattern, `*?[\`) && got != (pattern == s) {
			t.Errorf("matchGlob(%q, %q) = %v, want %v: the pattern has no wildcard", pattern, s, got, pattern == s)
		}
	})
}

// The text and binary indexes written by the real depmod must have the same
// content.
func TestDepmodIndexesAreEqual(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "lib/modules", release)
	for name, info := range map[string][]string{
		"kernel/a-one":        {"alias=pci:v00001AF4d*sv*sd*bc*sc*i*"},
		"kernel/b_two":        {"alias=input:b*v*p*e*-e*1,*k*[0-9A]*", "softdep=pre: a_one"},
		"kernel/sub/c-three":  {"alias=virtio:d00000001v*", "alias=virtio:d00000002v*", "alias=fs-thing"},
		"kernel/sub/d_lonely": {"alias=of:N*T*Cvirtio,mmioC*", "alias=acpi*:LNRO0005:*"},
	} {
		file := filepath.Join(dir, name+".ko")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, moduleELF(info), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	depmod, err := exec.LookPath("depmod")
	if err != nil {
		depmod = "/usr/sbin/depmod" // not on every user's PATH
	}
	if out, err := exec.Command(depmod, "-b", root, release).CombinedOutput(); err != nil {
		t.Fatalf("depmod (Debian: package kmod): %v: %s", err, out)
	}
	text, err := Open(os.DirFS(root), release, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"modules.alias", "modules.dep"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	bin, err := Open(os.DirFS(root), release, "")
	if err != nil {
		t.Fatal(err)
	}
	sorted := cmp.Transformer("sorted", func(l []alias) []string {
		var s []string
		for _, a := range l {
			s = append(s, a.pattern+" "+a.module)
		}
		slices.Sort(s)
		return s
	})
	if diff := cmp.Diff(text, bin, cmp.AllowUnexported(Index{}, module{}), sorted); diff != "" {
		t.Errorf("index (-text +binary):\n%s", diff)
	}
	if got, want := len(text.files), 4; got != want {
		t.Errorf("got %d modules, want %d", got, want)
	}
	if got := bin.Lookup("input:b0003v0627p0001e0001-e0,1,kA7,"); !slices.Equal(got, []string{"b_two"}) {
		t.Errorf("got modules %v, want b_two", got)
	}
}

// moduleELF returns a kernel module with only a .modinfo section.
func moduleELF(info []string) []byte {
	modinfo := []byte(strings.Join(info, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00.symtab\x00.strtab\x00")
	var b bytes.Buffer
	le := binary.LittleEndian
	const header, section, symbol = 64, 64, 24
	at := [...]int{header, header + len(modinfo), header + len(modinfo) + len(names)}
	end := at[2] + symbol + 1
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(end),
		Ehsize: header, Shentsize: section, Shnum: 5, Shstrndx: 2}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	_ = binary.Write(&b, le, h)
	b.Write(modinfo)
	b.Write(names)
	b.Write(make([]byte, symbol+1)) // the null symbol and the empty string
	for _, s := range []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC), Off: uint64(at[0]), Size: uint64(len(modinfo)), Addralign: 1},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(at[1]), Size: uint64(len(names)), Addralign: 1},
		{Name: 20, Type: uint32(elf.SHT_SYMTAB), Off: uint64(at[2]), Size: symbol, Link: 4, Info: 1, Addralign: 8, Entsize: symbol},
		{Name: 28, Type: uint32(elf.SHT_STRTAB), Off: uint64(at[2] + symbol), Size: 1, Addralign: 1},
	} {
		_ = binary.Write(&b, le, s)
	}
	return b.Bytes()
}
