// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

const (
	// interfaceTimeout and linkTimeout allow for slow network card firmware and
	// for a switch port that negotiates.
	interfaceTimeout = 60 * time.Second
	linkTimeout      = 60 * time.Second
	// firstTierTimeout is how long the drivers of tierFirst have to bring up the
	// interface before all others are loaded.
	firstTierTimeout = 2 * time.Second
	// storageQuiet is how long no device may appear before the list of disks
	// counts as complete: a controller finds its disks one after the other.
	storageQuiet = time.Second
	storageLimit = 30 * time.Second
	// failReport is how long a failure is reported; failPause is how long it
	// then stays readable on the console before the machine resets and boots
	// from the network again.
	failReport = time.Minute
	failPause  = 30 * time.Second
	// doneReport is how long a completed installation is reported. If the
	// server misses the report, the next boot may install again.
	doneReport = 5 * time.Minute
)

// machine is the installation of the machine on which this process is PID 1.
type machine struct {
	console  *console
	reporter *Reporter
	devices  *devices
	client   *Client
	plan     installerapi.Plan
	// kexec reports that a kernel is loaded for reset to start.
	kexec bool
}

// Main installs the machine and never returns: it ends in a reset or in the
// installed kernel. It must run as PID 1.
func Main() {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE, unix.SIGPWR, unix.SIGQUIT)
	mountErr := mountKernelFilesystems()
	m := &machine{console: openConsole()}
	m.reporter = NewReporter(m.console.print)
	// If PID 1 exits, the kernel panics; make it reset the machine after 30 s.
	_ = os.WriteFile("/proc/sys/kernel/panic", []byte("30"), 0)

	err := mountErr
	if err == nil {
		err = guard(func() error { return m.install(context.Background()) })()
	}
	if err != nil {
		m.kexec = false
		m.fail(err)
	}
	m.reset()
}

// mountKernelFilesystems mounts the kernel's pseudo file systems, unless they
// are mounted already.
func mountKernelFilesystems() error {
	for _, fs := range []struct {
		name, dir, options string
		optional           bool
	}{
		{"proc", "/proc", "", false},
		{"sysfs", "/sys", "", false},
		{"devtmpfs", "/dev", "mode=0755", false},
		{"tmpfs", "/run", "mode=0755", true},
		{"tmpfs", "/tmp", "mode=1777", true},
		{"efivarfs", "/sys/firmware/efi/efivars", "", true},
	} {
		if err := os.MkdirAll(fs.dir, 0o755); err != nil && !fs.optional {
			return fmt.Errorf("creating %s: %w", fs.dir, err)
		}
		err := unix.Mount(fs.name, fs.dir, fs.name, unix.MS_NOSUID, fs.options)
		if err != nil && !errors.Is(err, unix.EBUSY) && !fs.optional {
			return fmt.Errorf("mounting %s on %s: %w", fs.name, fs.dir, err)
		}
	}
	return nil
}

// install performs the installation up to the handoff.
func (m *machine) install(ctx context.Context) error {
	m.log("installer started")
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	settings, err := ParseCommandLine(string(cmdline))
	if err != nil {
		return err
	}
	if m.devices, err = newDevices(m.log); err != nil {
		return err
	}
	m.devices.raiseTier(tierFirst)
	name, err := m.network(ctx, settings)
	if err != nil {
		return err
	}
	m.client = NewClient(settings.Base, ClientOptions{Waiting: m.reporter.Waiting})
	m.reporter.Enter(installerapi.StageStart, "fetching the plan")
	if m.plan, err = m.client.Plan(ctx); err != nil {
		return err
	}
	m.reporter.SetAttempt(m.plan.Attempt)
	m.reporter.Start(m.client.Report)
	if m.plan.ImagePin == "" {
		return errors.New("the plan has no imagePin; an image that cannot be verified is not written to a disk")
	}
	if m.plan.MTU > 0 && m.plan.MTU != settings.MTU {
		settings.MTU = m.plan.MTU
		if err := configureInterface(name, settings); err != nil {
			return err
		}
	}
	m.reporter.Enter(installerapi.StageStart, "installing "+m.plan.Hostname)
	disk, err := m.writeImage(ctx)
	if err != nil {
		return err
	}
	warnings, err := m.configure(disk)
	if err != nil {
		return err
	}
	return m.done(ctx, warnings)
}

func (m *machine) log(line string) { m.console.print("pxelab: " + line) }

// network brings up the interface that iPXE used and returns its name.
func (m *machine) network(ctx context.Context, s Settings) (string, error) {
	var name string
	found := func() bool {
		name = interfaceByMAC("/sys", s.MAC)
		return name != ""
	}
	if !m.devices.wait(ctx, firstTierTimeout, found) {
		m.log(fmt.Sprintf("no interface %s yet, loading all drivers", s.MAC))
		m.devices.raiseTier(tierRest)
		if !m.devices.wait(ctx, interfaceTimeout, found) {
			return "", fmt.Errorf("no network interface has MAC address %s, from which the machine booted; interfaces found: %s; "+
				"check that the initrd has the driver", s.MAC, describeInterfaces("/sys"))
		}
	}
	if err := configureInterface(name, s); err != nil {
		return "", err
	}
	if !waitCarrier(ctx, name, linkTimeout) {
		m.log("no link on " + name + " yet, continuing anyway")
	}
	m.log(fmt.Sprintf("network %s %s", name, s.Address))
	return name, nil
}

// writeImage writes the image to a disk and verifies it there.
func (m *machine) writeImage(ctx context.Context) (Disk, error) {
	stream, err := OpenStream(ctx, m.image(m.plan.ImageDigest), m.plan.ImagePin)
	if err != nil {
		return Disk{}, err
	}
	defer stream.Close()
	h := stream.Header()
	m.reporter.SetTotal(h.DataBytes)
	disk, err := m.chooseDisk(ctx, h.VirtualSize)
	if err != nil {
		return Disk{}, err
	}
	device, err := OpenBlockDevice(disk, m.log)
	if err != nil {
		return Disk{}, err
	}
	defer device.Close()
	started := time.Now()
	m.reporter.Enter(installerapi.StageWrite, "to "+disk.String())
	if err := stream.WriteTo(ctx, device, m.reporter.AddWritten); err != nil {
		return Disk{}, fmt.Errorf("writing the image to %s: %w", disk.Name, err)
	}
	rate := float64(h.DataBytes) / 1e6 / time.Since(started).Seconds()
	m.reporter.Enter(installerapi.StageVerify, fmt.Sprintf("written at %.0f MB/s", rate))
	if err := stream.Verify(ctx, device, nil); err != nil {
		return Disk{}, fmt.Errorf("verifying %s: %w", disk.Name, err)
	}
	return disk, nil
}

func (m *machine) image(digest string) ImageOpener {
	return func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		return m.client.Image(ctx, offset, digest)
	}
}

// chooseDisk chooses a disk for an image of need bytes. It loads the drivers of
// further tiers only while no disk fits.
func (m *machine) chooseDisk(ctx context.Context, need int64) (Disk, error) {
	var err error
	for t := tierFirst; t <= tierRest; t++ {
		m.devices.handlePending()
		if t > tierFirst {
			m.devices.raiseTier(t)
			m.devices.settle(ctx, storageQuiet, storageLimit)
		}
		var disks []Disk
		if disks, err = scanDisks("/sys"); err != nil {
			return Disk{}, err
		}
		var d Disk
		// After tierFirst alone, a disk that precedes d in the order may not
		// have appeared yet, unless d is virtual.
		if d, err = ChooseDisk(disks, need); err == nil && (t > tierFirst || d.virtual()) {
			return d, nil
		}
	}
	return Disk{}, err
}

// configure adapts the installed system to this machine. Warnings are problems
// that do not prevent the handoff.
func (m *machine) configure(disk Disk) (warnings []string, err error) {
	m.reporter.Enter(installerapi.StagePartition, "")
	grown, err := growTable(disk)
	if err != nil {
		return nil, fmt.Errorf("growing the partition table of %s: %w", disk.Name, err)
	}
	m.reporter.Enter(installerapi.StageConfigure, grown)
	m.log(grown)
	files, err := CloudInitFiles(m.plan.SeedURL, m.plan.NetworkConfig)
	if err != nil {
		return nil, err
	}
	root, err := m.mountRoot(disk)
	if err != nil {
		return nil, err
	}
	m.log(root.partition.Name + ": " + root.grow())
	if !root.hasCloudInit() {
		warnings = append(warnings, "the image has no cloud-init, so nothing will configure it")
	}
	for _, f := range files {
		if err := root.write(f); err != nil {
			return nil, errors.Join(err, root.unmount())
		}
	}
	if m.plan.Handoff == "Kexec" {
		if err := m.loadKexec(disk, root); err != nil {
			warnings = append(warnings, fmt.Sprintf("resetting instead of kexec: %v", err))
		} else {
			m.kexec = true
		}
	}
	return warnings, root.unmount()
}

// done reports that the installation is complete.
func (m *machine) done(ctx context.Context, warnings []string) error {
	ctx, cancel := context.WithTimeout(ctx, doneReport)
	defer cancel()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err == nil {
		m.log(fmt.Sprintf("peak memory use %d MB", usage.Maxrss>>10))
	}
	message := strings.Join(append([]string{"installed " + m.plan.Hostname}, warnings...), "; ")
	if err := m.reporter.Finish(ctx, installerapi.StageDone, message); err != nil {
		m.log("cannot report the completed installation to the server: " + err.Error())
	}
	return nil
}

// fail reports the error and then waits for failPause.
func (m *machine) fail(err error) {
	ctx, cancel := context.WithTimeout(context.Background(), failReport)
	defer cancel()
	if m.client != nil && !m.reporter.Started() { // failed while fetching the plan
		m.reporter.Start(m.client.Report)
	}
	if rerr := m.reporter.Finish(ctx, installerapi.StageFailed, err.Error()); rerr != nil {
		m.log("cannot report the failure to the server: " + rerr.Error())
	}
	m.log(fmt.Sprintf("starting over in %s", failPause))
	time.Sleep(failPause)
}

// reset starts the loaded kernel or resets the machine. It does not return.
func (m *machine) reset() {
	if m.kexec {
		m.log("starting the installed system")
	} else {
		m.log("resetting")
	}
	m.console.close()
	unix.Sync()
	if m.kexec {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC) // returns only on failure
	}
	for {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		time.Sleep(time.Second)
	}
}
