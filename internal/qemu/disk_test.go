// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/qemu"
)

// TestDisks has a real QEMU open every kind of disk and tell what it made of it.
func TestDisks(t *testing.T) {
	for _, arch := range []qemu.Architecture{qemu.X8664, qemu.AArch64} {
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
			m.Disks = []qemu.Disk{
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
					t.Errorf("%s: cache %+v", b.Device, b.Inserted.Cache)
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
					t.Errorf("%s: %+v", id, i)
				}
			}
			if diff := cmp.Diff([]string{"net0", "root"}, observe(t, l, m.ID).BootOrder); diff != "" {
				t.Error(diff)
			}
			order := []string{"root", "net0", "data"}
			if err := l.SetBootOrder(within(t), m.ID, order); err != nil {
				t.Fatal(err)
			}
			var index int
			query := map[string]string{"path": "/machine/peripheral/data", "property": "bootindex"}
			if err := l.QMP(within(t), m.ID, "qom-get", query, &index); err != nil || index != 3 {
				t.Errorf("boot index %d, %v", index, err)
			}
		})
	}
}
