// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/installer/internal/kmod"
)

// slowDisks is a machine without drivers whose disks appear in steps.
type slowDisks struct {
	events chan string
	count  atomic.Int64
	disks  []Disk
}

func (s *slowDisks) scan() ([]Disk, error) { return s.disks[:s.count.Load()], nil }

// appear shows one more disk.
func (s *slowDisks) appear() {
	s.count.Add(1)
	s.events <- ""
}

func (s *slowDisks) search(need Requirements, slow time.Duration, waiting func(string)) *diskSearch {
	d := &devices{
		index: kmod.Empty(), loader: kmod.NewLoader(kmod.Empty(), "/"), log: func(string) {},
		tried: map[string]bool{}, events: s.events, tier: tierRest,
	}
	return &diskSearch{
		devices: d, scan: s.scan, waiting: waiting, need: need,
		quiet: 10 * time.Millisecond, limit: time.Minute, slow: slow,
	}
}

// TestDiskSearchWaitsForSlowController is about disks that appear only after the wait
// has begun; the search reports that it waits.
func TestDiskSearchWaitsForSlowController(t *testing.T) {
	s := &slowDisks{events: make(chan string, 8), disks: []Disk{disk("sdb", gib), disk("sda", 8*gib)}}
	reasons := []string{}
	waiting := func(reason string) {
		reasons = append(reasons, reason)
		if reason != "" { // from now on disks appear, first one that does not fit
			go func() {
				s.appear()
				s.appear()
			}()
		}
	}
	got, err := s.search(Requirements{Size: 2 * gib}, 10*time.Minute, waiting).run(t.Context())
	if err != nil || got.Name != "sda" {
		t.Fatalf("got %s, %v, want sda", got.Name, err)
	}
	want := []string{
		"waiting up to 10m0s for slow disk controllers: no disk found; the image needs 2147483648 bytes (2147.5 MB); " +
			"check that the machine has a disk and that the initrd has its driver",
		"",
	}
	if diff := cmp.Diff(want, reasons); diff != "" {
		t.Errorf("reasons of waits (-want +got):\n%s", diff)
	}
}

func TestDiskSearchEnds(t *testing.T) {
	s := &slowDisks{events: make(chan string, 8), disks: []Disk{disk("sda", gib)}}
	s.count.Store(1)
	_, err := s.search(Requirements{Size: 2 * gib}, time.Millisecond, func(string) {}).run(t.Context())
	var none *NoDiskError
	if !errors.As(err, &none) || len(none.Disks) != 1 {
		t.Errorf("got error %v, want a *NoDiskError with one disk", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.search(Requirements{Size: 2 * gib}, time.Hour, func(string) {}).run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: got error %v, want %v", err, context.Canceled)
	}
}

// sysTree creates files of /sys with their contents.
func sysTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadHardware(t *testing.T) {
	got := readHardware(sysTree(t, map[string]string{
		"firmware/efi/runtime":               "",
		"block/vda/size":                     "2048\n",
		"block/vda/serial":                   "root\n",
		"block/vda/queue/rotational":         "1\n",
		"block/sda/size":                     "4096\n",
		"block/sda/device/model":             "DISK    \n",
		"block/sda/device/vpd_pg80":          "\x00\x80\x00\x0a  S-123 \x00",
		"block/sda/queue/logical_block_size": "4096\n",
		"block/loop0/size":                   "4096\n",
		"class/net/eth0/address":             "52:54:00:12:34:56\n",
		"class/net/eth0/device/vendor":       "",
		"class/net/lo/address":               "00:00:00:00:00:00\n",
	}))
	if got.CPUs < 1 || got.Memory < 1<<20 {
		t.Errorf("got %d CPUs and %d bytes of memory, want those of the host", got.CPUs, got.Memory)
	}
	got.CPUs, got.Memory = 0, 0
	want := installerapi.Hardware{
		Firmware: "UEFI",
		Disks: []installerapi.HardwareDisk{
			{Name: "vda", Size: 1 << 20, Serial: "root", Rotational: true, LogicalSectorSize: 512},
			{Name: "sda", Size: 2 << 20, Model: "DISK", Serial: "S-123", LogicalSectorSize: 4096},
		},
		NICs: []installerapi.HardwareNIC{{Name: "eth0", MAC: "52:54:00:12:34:56"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hardware (-want +got):\n%s", diff)
	}
}
