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
	// contents is what the image contains, and imageSize the bytes of a disk that it
	// covers.
	contents  ImageContents
	imageSize int64
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
			remedy := "check that the initrd has the driver"
			if m.devices.missing != nil {
				remedy = m.devices.missing.Error()
			}
			return "", fmt.Errorf("no network interface has MAC address %s, from which the machine booted; interfaces found: %s; %s",
				s.MAC, describeInterfaces("/sys"), remedy)
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
	if m.contents, err = stream.Inspect(ctx, m.plan.Root); err != nil {
		return Disk{}, err
	}
	m.imageSize = h.VirtualSize
	disk, err := m.chooseDisk(ctx, Requirements{Size: h.VirtualSize, SectorSize: m.contents.SectorSize, RootDisk: m.plan.RootDisk})
	if err != nil {
		m.reporter.SetHardware(readHardware("/sys"))
		return Disk{}, err
	}
	wait := m.reportHardware(ctx)
	defer wait()
	device, err := OpenBlockDevice(disk, m.log)
	if err != nil {
		return Disk{}, err
	}
	defer device.Close()
	if err := m.clean(ctx, device, disk); err != nil {
		return Disk{}, err
	}
	m.reporter.SetTotal(h.DataBytes)
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

// done reports that the installation is complete.
func (m *machine) done(ctx context.Context, warnings []string) error {
	ctx, cancel := context.WithTimeout(ctx, doneReport)
	defer cancel()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err == nil {
		m.log(fmt.Sprintf("peak memory use %d MB", usage.Maxrss>>10))
	}
	m.reporter.SetWarnings(warnings)
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
