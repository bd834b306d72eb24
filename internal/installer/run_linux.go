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

	"github.com/pxelab/pxelab/internal/install"
)

const (
	// interfacePatience and linkPatience bound the wait for a network: slow
	// firmware of a card, a switch port that negotiates.
	interfacePatience = 60 * time.Second
	linkPatience      = 60 * time.Second
	// firstTierPatience is how long the usual drivers have to bring up the
	// interface before all others are loaded.
	firstTierPatience = 2 * time.Second
	// storageQuiet is how long nothing new must appear before real disks count
	// as complete: theirs are found one after the other.
	storageQuiet = time.Second
	storageLimit = 30 * time.Second
	// A failure is reported for this long, then stays readable on the console,
	// then the machine starts over: its next network boot tries again.
	failReport = time.Minute
	failPause  = 30 * time.Second
	// doneReport is how long a finished installation waits for the server to
	// hear of it. Without that the next boot may install again.
	doneReport = 5 * time.Minute
)

// machine is the installation of the machine that this process is PID 1 of.
type machine struct {
	console  *console
	reporter *Reporter
	devices  *devices
	client   *Client
	plan     install.Plan
	// kexec says that a kernel is loaded for reset to start.
	kexec bool
}

// Main installs the machine and never returns: it ends in a reset or in the
// installed kernel. Call it as PID 1 only.
func Main() {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE, unix.SIGPWR, unix.SIGQUIT)
	mountErr := mountKernelFilesystems()
	m := &machine{console: openConsole()}
	m.reporter = NewReporter(m.console.print)
	// Should this process die in spite of everything, the machine starts over.
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

// mountKernelFilesystems mounts what the kernel gives. What an initrd has
// mounted already is no error.
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
			return fmt.Errorf("making %s: %w", fs.dir, err)
		}
		err := unix.Mount(fs.name, fs.dir, fs.name, unix.MS_NOSUID, fs.options)
		if err != nil && !errors.Is(err, unix.EBUSY) && !fs.optional {
			return fmt.Errorf("mounting %s on %s: %w", fs.name, fs.dir, err)
		}
	}
	return nil
}

// install is the whole way to the handoff.
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
	m.devices.raise(tierFirst)
	name, err := m.network(ctx, settings)
	if err != nil {
		return err
	}
	m.client = NewClient(settings.Base, m.reporter.Waiting)
	m.reporter.Enter(install.StageStart, "fetching the plan")
	if m.plan, err = m.client.Plan(ctx); err != nil {
		return err
	}
	m.reporter.SetAttempt(m.plan.Attempt)
	m.reporter.Start(m.client.Report)
	if m.plan.ImagePin == "" {
		return errors.New("the plan pins no image: nothing unverified is written to a disk")
	}
	if m.plan.MTU > 0 && m.plan.MTU != settings.MTU {
		settings.MTU = m.plan.MTU
		if err := configureInterface(name, settings); err != nil {
			return err
		}
	}
	m.reporter.Enter(install.StageStart, "installing "+m.plan.Hostname)
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

// network brings the interface up that iPXE used.
func (m *machine) network(ctx context.Context, s Settings) (string, error) {
	var name string
	found := func() bool {
		name = interfaceByMAC("/sys", s.MAC)
		return name != ""
	}
	if !m.devices.wait(ctx, firstTierPatience, found) {
		m.log(fmt.Sprintf("no interface %s yet, loading all drivers", s.MAC))
		m.devices.raise(tierRest)
		if !m.devices.wait(ctx, interfacePatience, found) {
			return "", fmt.Errorf("no network interface has the address %s that the machine booted from; interfaces found: %s: does the initrd have the driver?", s.MAC, interfaces("/sys"))
		}
	}
	if err := configureInterface(name, s); err != nil {
		return "", err
	}
	if !waitCarrier(ctx, name, linkPatience) {
		m.log("no link on " + name + " yet, trying all the same")
	}
	m.log(fmt.Sprintf("network %s %s", name, s.Address))
	return name, nil
}

// writeImage brings the image onto a disk and verifies it there.
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
	m.reporter.Enter(install.StageWrite, "to "+disk.String())
	if err := stream.WriteTo(ctx, device, m.reporter.AddWritten); err != nil {
		return Disk{}, fmt.Errorf("writing the image to %s: %w", disk.Name, err)
	}
	rate := float64(h.DataBytes) / 1e6 / time.Since(started).Seconds()
	m.reporter.Enter(install.StageVerify, fmt.Sprintf("written at %.0f MB/s", rate))
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

// chooseDisk loads further drivers only while no disk fits.
func (m *machine) chooseDisk(ctx context.Context, need int64) (Disk, error) {
	var err error
	for t := tierFirst; t <= tierRest; t++ {
		m.devices.catchUp()
		if t > tierFirst {
			m.devices.raise(t)
			m.devices.settle(ctx, storageQuiet, storageLimit)
		}
		var disks []Disk
		if disks, err = scanDisks("/sys"); err != nil {
			return Disk{}, err
		}
		var d Disk
		// A disk that is there early says nothing of those that come before it
		// in the order, unless nothing does.
		if d, err = ChooseDisk(disks, need); err == nil && (t > tierFirst || d.virtual()) {
			return d, nil
		}
	}
	return Disk{}, err
}

// configure makes the written system this machine's own. The warnings are for
// what is not as it should be but keeps nobody from going on.
func (m *machine) configure(disk Disk) (warnings []string, err error) {
	m.reporter.Enter(install.StagePartition, "")
	grown, err := growTable(disk)
	if err != nil {
		return nil, fmt.Errorf("growing the partition table of %s: %w", disk.Name, err)
	}
	m.reporter.Enter(install.StageConfigure, grown)
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
		warnings = append(warnings, "the image has no cloud-init: nothing will configure it")
	}
	for _, f := range files {
		if err := root.write(f); err != nil {
			return nil, errors.Join(err, root.unmount())
		}
	}
	if m.plan.Handoff == "Kexec" {
		if err := m.loadKexec(disk, root); err != nil {
			warnings = append(warnings, fmt.Sprintf("no kexec but a reset: %v", err))
		} else {
			m.kexec = true
		}
	}
	return warnings, root.unmount()
}

// done reports the end and hands over.
func (m *machine) done(ctx context.Context, warnings []string) error {
	ctx, cancel := context.WithTimeout(ctx, doneReport)
	defer cancel()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err == nil {
		m.log(fmt.Sprintf("used %d MB of memory at most", usage.Maxrss>>10))
	}
	message := strings.Join(append([]string{"installed " + m.plan.Hostname}, warnings...), "; ")
	if err := m.reporter.Finish(ctx, install.StageDone, message); err != nil {
		m.log("the server did not hear that the installation is done: " + err.Error())
	}
	return nil
}

// fail reports the error before anything else happens.
func (m *machine) fail(err error) {
	ctx, cancel := context.WithTimeout(context.Background(), failReport)
	defer cancel()
	if m.client != nil && !m.reporter.Started() { // not even a plan
		m.reporter.Start(m.client.Report)
	}
	if rerr := m.reporter.Finish(ctx, install.StageFailed, err.Error()); rerr != nil {
		m.log("the server did not hear of the failure: " + rerr.Error())
	}
	m.log(fmt.Sprintf("starting over in %s", failPause))
	time.Sleep(failPause)
}

// reset does not return.
func (m *machine) reset() {
	if m.kexec {
		m.log("starting the installed system")
	} else {
		m.log("reset")
	}
	m.console.close()
	unix.Sync()
	if m.kexec {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC) // returns only if it failed
	}
	for {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		time.Sleep(time.Second)
	}
}
