// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/machine"
)

// TestDisks opens every kind of disk in a real QEMU and checks what query-block
// reports.
func TestDisks(t *testing.T) {
	for _, arch := range []machine.Architecture{machine.X8664, machine.AArch64} {
		t.Run(string(arch), func(t *testing.T) {
			o := options(t)
			stopAll(t, o)
			l := open(t, o)
			m := bare(arch)
			file := func(name string) string { return filepath.Join(o.DataDir, name) }
			if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", file("root.qcow2"), "1G").CombinedOutput(); err != nil {
				t.Fatalf("qemu-img: %v: %s", err, out)
			}
			for name, size := range map[string]int64{"data,with comma.raw": 1 << 20, "seed.iso": 64 << 10} {
				if err := os.WriteFile(file(name), make([]byte, size), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m.Disks = []machine.Disk{
				{ID: "root", Path: file("root.qcow2"), Format: "qcow2", Serial: "twenty-bytes-serial.", BootIndex: 2},
				{ID: "data", Path: file("data,with comma.raw"), Format: "raw"},
				{ID: "seed", Path: file("seed.iso"), Format: "raw", ReadOnly: true},
			}
			start(t, l, m)

			type opened struct {
				Device   string `json:"qdev"`
				Inserted struct {
					Driver       string `json:"drv"`
					ReadOnly     bool   `json:"ro"`
					DetectZeroes string `json:"detect_zeroes"`
					Cache        struct {
						Writeback bool `json:"writeback"`
						Direct    bool `json:"direct"`
						NoFlush   bool `json:"no-flush"`
					} `json:"cache"`
				} `json:"inserted"`
			}
			var all []opened
			if err := l.QMP(within(t), m.ID, "query-block", nil, &all); err != nil {
				t.Fatal(err)
			}
			got := map[string]opened{}
			for _, b := range all {
				if b.Inserted.Cache.NoFlush || b.Inserted.Cache.Direct || !b.Inserted.Cache.Writeback {
					t.Errorf("%s: got cache %+v, want only writeback", b.Device, b.Inserted.Cache)
				}
				b.Inserted.Cache.Writeback = false
				got[filepath.Base(filepath.Dir(b.Device))] = b
			}
			for id, want := range map[string]struct {
				driver, zeroes string
				ro             bool
			}{"root": {"qcow2", "unmap", false}, "data": {"raw", "unmap", false}, "seed": {"raw", "off", true}} {
				i := got[id].Inserted
				if i.Driver != want.driver || i.DetectZeroes != want.zeroes || i.ReadOnly != want.ro {
					t.Errorf("%s: got %+v, want %+v", id, i, want)
				}
			}
			if diff := cmp.Diff([]string{"net0", "root"}, observe(t, l, m.ID).BootOrder); diff != "" {
				t.Errorf("boot order (-want +got):\n%s", diff)
			}
			order := []string{"root", "net0", "data"}
			if err := l.SetBootOrder(within(t), m.ID, order); err != nil {
				t.Fatal(err)
			}
			awaitState(t, l, m.ID, "the boot order", func(s machine.State) bool { return slices.Equal(s.BootOrder, order) })
			var index int
			query := map[string]string{"path": "/machine/peripheral/data", "property": "bootindex"}
			if err := l.QMP(within(t), m.ID, "qom-get", query, &index); err != nil || index != 3 {
				t.Errorf("got boot index %d, %v; want 3", index, err)
			}
		})
	}
}
