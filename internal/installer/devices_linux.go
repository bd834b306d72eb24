// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/installer/internal/kmod"
)

// devices loads the drivers of the devices that the machine has or that appear
// later.
type devices struct {
	index  *kmod.Index
	loader *kmod.Loader
	log    func(string)
	tier   tier
	tried  map[string]bool // by modalias
	events <-chan string   // modalias of a device that appeared; "" if it has none
	// missing is why the initrd has no modules for the running kernel; nil if it has.
	missing error
}

func newDevices(log func(string)) (*devices, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("uname: %w", err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	// Watch before the first listing, so that no device is missed in between.
	events, err := watchDevices()
	if err != nil {
		return nil, err
	}
	index, err := kmod.Open(os.DirFS("/"), unix.ByteSliceToString(uts.Release[:]), string(cmdline))
	var missing error
	if errors.Is(err, kmod.ErrNoModules) {
		// All drivers may be built in.
		log(err.Error() + "; continuing with the drivers that the kernel has")
		missing, index, err = err, kmod.Empty(), nil
	}
	if err != nil {
		return nil, err
	}
	return &devices{
		index: index, loader: kmod.NewLoader(index, "/"), log: log, tried: map[string]bool{}, events: events, missing: missing,
	}, nil
}

// watchDevices receives the kernel's uevents until the process ends.
func watchDevices() (<-chan string, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listening for devices: %w", err)
	}
	// The buffer must hold a burst of devices.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listening for devices: %w", err)
	}
	events := make(chan string, 256)
	go func() {
		defer unix.Close(fd)
		defer close(events)
		buf := make([]byte, 16<<10)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				if err == unix.EINTR || err == unix.ENOBUFS {
					continue
				}
				return
			}
			if modalias, ok := parseUevent(string(buf[:n])); ok {
				events <- modalias
			}
		}
	}()
	return events, nil
}

// parseUevent returns the modalias, if any, of a device that was added, changed
// or moved; ok is false for other uevents.
func parseUevent(msg string) (modalias string, ok bool) {
	action, _, found := strings.Cut(msg, "@")
	if !found || action != "add" && action != "change" && action != "move" {
		return "", false
	}
	for field := range strings.SplitSeq(msg, "\x00") {
		if value, found := strings.CutPrefix(field, "MODALIAS="); found {
			return value, true
		}
	}
	return "", true
}

// raiseTier loads the drivers of all tiers up to t.
func (d *devices) raiseTier(t tier) {
	if t <= d.tier {
		return
	}
	d.tier = t
	// A driver may add devices: repeat until no driver was loaded.
	for d.coldplug() {
	}
}

// firstBuses are the buses of tierFirst's devices; diskBuses add those of
// tierDisks. Listing only these skips hundreds of other devices.
var (
	firstBuses = []string{"pci", "virtio", "vmbus", "xen", "platform"}
	diskBuses  = append(slices.Clip(firstBuses), "scsi")
)

// listDir returns the sorted names in a directory; nil if it cannot be read.
func listDir(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	slices.Sort(names)
	return names
}

func (d *devices) buses() []string {
	switch d.tier {
	case tierFirst:
		return firstBuses
	case tierDisks:
		return diskBuses
	}
	return listDir("/sys/bus")
}

// coldplug loads the drivers of the present devices and reports whether it
// loaded any.
func (d *devices) coldplug() bool {
	loaded := false
	for _, bus := range d.buses() {
		dir := "/sys/bus/" + bus + "/devices/"
		for _, name := range listDir(dir) {
			if d.plug(sysfsString(dir + name + "/modalias")) {
				loaded = true
			}
		}
	}
	return loaded
}

// handlePending handles the queued uevents without waiting for more.
func (d *devices) handlePending() {
	for {
		select {
		case modalias, ok := <-d.events:
			if !ok {
				d.events = nil
				return
			}
			d.plug(modalias)
		default:
			return
		}
	}
}

// plug loads the drivers of a device once, if its tier is enabled, and reports
// whether it loaded any.
func (d *devices) plug(modalias string) bool {
	if modalias == "" || d.tried[modalias] || tierOf(modalias) > d.tier {
		return false
	}
	d.tried[modalias] = true
	anyLoaded := false
	for _, name := range d.index.Lookup(modalias) {
		loaded, err := d.loader.Load(name)
		if err != nil {
			d.log(err.Error())
		}
		if len(loaded) > 0 {
			d.log("drivers: " + strings.Join(loaded, " "))
			anyLoaded = true
		}
	}
	return anyLoaded
}

// wait handles new devices until ready returns true, limit has passed or ctx
// ends. It reports whether ready returned true.
func (d *devices) wait(ctx context.Context, limit time.Duration, ready func() bool) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		if ready() {
			return true
		}
		select {
		case modalias, ok := <-d.events:
			if !ok {
				d.events = nil
			}
			d.plug(modalias)
		case <-timer.C:
			return ready()
		case <-ctx.Done():
			return false
		}
	}
}

// settle handles new devices until none has appeared for quiet, limit has
// passed or ctx ends.
func (d *devices) settle(ctx context.Context, quiet, limit time.Duration) {
	end := time.Now().Add(limit)
	for time.Now().Before(end) {
		timer := time.NewTimer(quiet)
		select {
		case modalias, ok := <-d.events:
			if !ok {
				d.events = nil
			}
			d.plug(modalias)
			timer.Stop()
		case <-timer.C:
			return
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// loadFilesystem loads the driver of a file system unless the kernel has it.
func (d *devices) loadFilesystem(name string) error {
	known := func() bool {
		for line := range strings.Lines(sysfsString("/proc/filesystems")) {
			if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == name {
				return true
			}
		}
		return false
	}
	if known() {
		return nil
	}
	_, err := d.loader.Load(name)
	if known() {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("neither the kernel nor the initrd has a driver for %s", name)
	}
	return err
}
