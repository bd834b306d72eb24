// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/installer/kmod"
)

// devices loads drivers for what the machine has and hears of what appears.
type devices struct {
	index  *kmod.Index
	loader *kmod.Loader
	log    func(string)
	tier   tier
	tried  map[string]bool // modaliases
	events <-chan string   // modalias of a device that appeared, or ""
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
	// Before the devices are listed, so that none is missed in between.
	events, err := watchDevices()
	if err != nil {
		return nil, err
	}
	index, err := kmod.Open(os.DirFS("/"), unix.ByteSliceToString(uts.Release[:]), string(cmdline))
	if err != nil {
		return nil, err
	}
	return &devices{index: index, loader: kmod.NewLoader(index, "/"), log: log, tried: map[string]bool{}, events: events}, nil
}

// watchDevices listens to the kernel's announcements until the process ends.
func watchDevices() (<-chan string, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listening for devices: %w", err)
	}
	// A burst of devices must fit.
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

// parseUevent returns the modalias, if any, of a device that was added or
// changed.
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

// raise loads the drivers of all tiers up to t.
func (d *devices) raise(t tier) {
	if t <= d.tier {
		return
	}
	d.tier = t
	// A driver may add devices at once: look again until there is nothing new.
	for d.coldplug() {
	}
}

// firstBuses are where devices of tierFirst are, diskBuses where those of
// tierDisks are too: a machine has hundreds of other devices.
var (
	firstBuses = []string{"pci", "virtio", "vmbus", "xen", "platform"}
	diskBuses  = append(slices.Clip(firstBuses), "scsi")
)

// folder lists names; nil for what is no folder.
func folder(dir string) []string {
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
	return folder("/sys/bus")
}

// coldplug reports whether it loaded a driver.
func (d *devices) coldplug() bool {
	any := false
	for _, bus := range d.buses() {
		dir := "/sys/bus/" + bus + "/devices/"
		for _, name := range folder(dir) {
			if d.plug(sysfsString(dir + name + "/modalias")) {
				any = true
			}
		}
	}
	return any
}

// catchUp handles the devices that appeared meanwhile, without waiting.
func (d *devices) catchUp() {
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

func (d *devices) plug(modalias string) bool {
	if modalias == "" || d.tried[modalias] || tierOf(modalias) > d.tier {
		return false
	}
	d.tried[modalias] = true
	any := false
	for _, name := range d.index.Lookup(modalias) {
		loaded, err := d.loader.Load(name)
		if err != nil {
			d.log(err.Error())
		}
		if len(loaded) > 0 {
			d.log("drivers: " + strings.Join(loaded, " "))
			any = true
		}
	}
	return any
}

// wait handles new devices until ready says true, the time is over, or ctx
// ends, and returns what ready said last.
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

// settle waits until no device appeared for a while; limit bounds it.
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

// filesystem makes the kernel know a file system.
func (d *devices) filesystem(name string) error {
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
		err = fmt.Errorf("neither the kernel nor the initrd has %s", name)
	}
	return err
}
