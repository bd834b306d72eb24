// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// diskLimit is how long a disk that fits may take to appear after all drivers are
// loaded: controllers of real machines initialize their firmware first, and start their
// disks one after the other.
//
// virtualLimit is how long it may take on a machine that has a paravirtual disk, which
// has no such controllers.
const (
	diskLimit    = 90 * time.Second
	virtualLimit = 5 * time.Second
)

// diskSearch chooses a disk among those that are there or appear in time.
type diskSearch struct {
	devices *devices
	scan    func() ([]Disk, error)
	// waiting is called with the reason of a wait, and with "" at its end.
	waiting func(reason string)
	need    Requirements
	// quiet and limit are those of devices.settle; slow is how long a disk that fits
	// may take to appear.
	quiet, limit, slow time.Duration
}

func (m *machine) chooseDisk(ctx context.Context, need Requirements) (Disk, error) {
	s := &diskSearch{
		devices: m.devices, scan: func() ([]Disk, error) { return scanDisks("/sys") }, waiting: m.reporter.Waiting,
		need: need, quiet: storageQuiet, limit: storageLimit, slow: diskLimit,
	}
	return s.run(ctx)
}

// run returns the disk to install to. It loads the drivers of further tiers only while
// no disk fits, and then waits. The error is a *NoDiskError if no disk fits in the end.
func (s *diskSearch) run(ctx context.Context) (Disk, error) {
	var err error
	for t := tierFirst; t <= tierRest; t++ {
		s.devices.handlePending()
		if t > tierFirst {
			s.devices.raiseTier(t)
			s.devices.settle(ctx, s.quiet, s.limit)
		}
		var d Disk
		// After tierFirst alone, a disk that precedes d in the order may not have
		// appeared yet, unless d is virtual.
		if d, err = s.choose(); err == nil && (t > tierFirst || d.virtual()) {
			return d, nil
		}
	}
	slow := s.slow
	var none *NoDiskError
	if errors.As(err, &none) && slices.ContainsFunc(none.Disks, Disk.virtual) {
		slow = min(slow, virtualLimit)
	}
	s.waiting(fmt.Sprintf("waiting up to %s for slow disk controllers: %v", slow, err))
	defer s.waiting("")
	found := s.devices.wait(ctx, slow, func() bool {
		_, err = s.choose()
		return err == nil
	})
	if !found {
		return Disk{}, errors.Join(err, ctx.Err())
	}
	// The disks of a controller appear one after the other.
	s.devices.settle(ctx, s.quiet, s.limit)
	return s.choose()
}

func (s *diskSearch) choose() (Disk, error) {
	disks, err := s.scan()
	if err != nil {
		return Disk{}, err
	}
	return ChooseDisk(disks, s.need)
}

// reportHardware reports the machine's inventory while the image is written, and returns
// a function that waits for that. Until then only it may use the machine's devices. It
// loads the drivers of disks that the installation does not need.
func (m *machine) reportHardware(ctx context.Context) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := guard(func() error {
			m.devices.raiseTier(tierDisks)
			m.devices.settle(ctx, storageQuiet, storageLimit)
			m.reporter.SetHardware(readHardware("/sys"))
			return nil
		})()
		if err != nil {
			m.log("cannot read the inventory: " + err.Error())
		}
	}()
	return func() { <-done }
}

// readHardware returns the machine's inventory, of the devices whose drivers are loaded.
func readHardware(sys string) installerapi.Hardware {
	h := installerapi.Hardware{CPUs: runtime.NumCPU(), Firmware: "BIOS"}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		h.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	if _, err := os.Stat(filepath.Join(sys, "firmware/efi")); err == nil {
		h.Firmware = "UEFI"
	}
	disks, _ := scanDisks(sys) // none without block devices
	disks = wholeDisks(disks)
	for _, d := range disks[:min(len(disks), installerapi.MaxHardwareDisks)] {
		h.Disks = append(h.Disks, installerapi.HardwareDisk{
			Name: d.Name, Size: d.Size, Model: d.Model, Serial: d.Serial, Rotational: d.Rotational, LogicalSectorSize: d.BlockSize,
		})
	}
	for _, name := range listDir(filepath.Join(sys, "class/net")) {
		dir := filepath.Join(sys, "class/net", name)
		mac, err := net.ParseMAC(sysfsString(filepath.Join(dir, "address")))
		if _, virtual := os.Stat(filepath.Join(dir, "device")); virtual != nil || err != nil || len(h.NICs) == installerapi.MaxHardwareNICs {
			continue // loopback, bonds and tunnels have no device
		}
		h.NICs = append(h.NICs, installerapi.HardwareNIC{Name: name, MAC: mac.String()})
	}
	return h
}
