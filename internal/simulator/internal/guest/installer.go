// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pxelab/pxelab/internal/installer"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// The limits of the installer's last reports, and its pause after a failure.
const (
	installerDoneReport = 5 * time.Minute
	installerFailReport = time.Minute
	installerFailPause  = 30 * time.Second
	// stallReports is how long an installer that hangs still reports how far it is.
	stallReports = time.Second
	// installerBuffer is the size of a connection's read buffer, in bytes.
	installerBuffer = 8 << 10
)

// installation is one run of the installer. The protocol, the reports and the image
// stream are the real installer's; disk and kernel are not there.
type installation struct {
	g        *Guest
	nic      *nic
	settings installer.Settings
	network  *network
	client   *installer.Client
	reporter *installer.Reporter
	plan     installerapi.Plan
}

// runInstaller installs the machine. It returns why the boot ends.
func (g *Guest) runInstaller(ctx context.Context, cmdline string) error {
	m := &installation{g: g, reporter: installer.NewReporter(g.installerLine)}
	defer m.close()
	g.installerLine("pxelab: installer started")
	r, err := m.install(ctx, cmdline)
	if err != nil && ctx.Err() == nil {
		m.fail(ctx, err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil && m.plan.Handoff == "Kexec" {
		g.installerLine("pxelab: starting the installed system")
		m.close()
		return g.runSystem(ctx, r)
	}
	g.installerLine("pxelab: resetting")
	return resetError{"the installer reset the machine"}
}

// close ends the reports and the network. It is idempotent.
func (m *installation) close() {
	m.reporter.Stop()
	if m.client != nil {
		m.client.Close()
	}
	if m.network != nil {
		m.network.close()
		m.network = nil
	}
}

func (m *installation) install(ctx context.Context, cmdline string) (*record, error) {
	settings, err := installer.ParseCommandLine(cmdline)
	if err != nil {
		return nil, err
	}
	m.settings = settings
	if err := m.configure(); err != nil {
		return nil, err
	}
	m.connect()
	m.reporter.Enter(installerapi.StageStart, "fetching the plan")
	if m.plan, err = m.client.Plan(ctx); err != nil {
		return nil, err
	}
	m.reporter.SetAttempt(m.plan.Attempt)
	m.reporter.Start(m.report)
	if m.plan.ImagePin == "" {
		return nil, errors.New("the plan has no imagePin; an image that cannot be verified is not written to a disk")
	}
	if m.plan.MTU > 0 {
		m.network.setMTU(m.plan.MTU)
	}
	m.reporter.Enter(installerapi.StageStart, "installing "+m.plan.Hostname)
	if err := m.writeImage(ctx); err != nil {
		return nil, err
	}
	r, err := m.adapt()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, installerDoneReport)
	defer cancel()
	if err := m.reporter.Finish(ctx, installerapi.StageDone, "installed "+m.plan.Hostname); err != nil {
		m.g.installerLine("pxelab: cannot report the completed installation to the server: " + err.Error())
	}
	return r, nil
}

// configure applies the network settings of the kernel command line.
func (m *installation) configure() error {
	s := m.settings
	var found []string
	for i, n := range m.g.nics {
		if bytes.Equal(n.mac, s.MAC) {
			m.nic = n
			m.g.installerLine(fmt.Sprintf("pxelab: network eth%d %s", i, s.Address))
		}
		found = append(found, fmt.Sprintf("eth%d %s", i, n.mac))
	}
	if m.nic == nil {
		return fmt.Errorf("no network interface has MAC address %s, from which the machine booted; interfaces found: %v; "+
			"check that the initrd has the driver", s.MAC, found)
	}
	if !s.Address.Addr().Is4() {
		return fmt.Errorf("adding address %s: a simulated machine has no IPv6", s.Address)
	}
	w, err := openNetwork(link{nic: m.nic, address: s.Address, gateway: s.Gateway, mtu: s.MTU})
	m.network = w
	return err
}

func (m *installation) connect() {
	m.client = installer.NewClient(m.settings.Base, installer.ClientOptions{
		Waiting: m.reporter.Waiting, Dial: m.network.dialContext, ReadBuffer: installerBuffer,
	})
}

// report sends a report, in the reporter's goroutine.
func (m *installation) report(ctx context.Context, p installerapi.Progress) error {
	defer rescue(m.nic.onPanic)
	return m.client.Report(ctx, p)
}

// writeImage receives and verifies the image. The disk remembers that it holds a part
// of one.
func (m *installation) writeImage(ctx context.Context) error {
	stream, err := installer.OpenStream(ctx, m.openImage, m.plan.ImagePin)
	if err != nil {
		return err
	}
	defer stream.Close()
	h := stream.Header()
	m.reporter.SetHardware(m.g.hardware())
	disk, err := installer.ChooseDisk(m.g.disks(), installer.Requirements{Size: h.VirtualSize, RootDisk: m.plan.RootDisk})
	if err != nil {
		return err
	}
	if err := m.clean(disk); err != nil {
		return err
	}
	m.reporter.SetTotal(h.DataBytes)
	failed := func(err error) error { return fmt.Errorf("writing the image to %s: %w", disk.Name, err) }
	if err := (&record{}).store(m.g.config.Disk); err != nil {
		return failed(err)
	}
	started := time.Now()
	m.reporter.Enter(installerapi.StageWrite, "to "+disk.String())
	if m.g.faults[InstallerError] {
		return failed(fmt.Errorf("writing 4096 bytes at 0 of %s: input/output error", disk.Name))
	}
	if err := stream.Discard(ctx, m.reporter.AddWritten); err != nil {
		return failed(err)
	}
	rate := float64(h.DataBytes) / 1e6 / max(time.Since(started).Seconds(), 1e-3)
	m.reporter.Enter(installerapi.StageVerify, fmt.Sprintf("written at %.0f MB/s", rate))
	return nil
}

// clean erases what the disk remembers, which is all that it holds.
func (m *installation) clean(d installer.Disk) error {
	if m.plan.Cleaning == "" || m.plan.Cleaning == installerapi.CleanNone {
		return nil
	}
	m.reporter.SetTotal(d.Size)
	m.reporter.Enter(installerapi.StageClean, m.plan.Cleaning+" of "+d.String())
	if err := (&record{}).store(m.g.config.Disk); err != nil {
		return fmt.Errorf("cleaning %s: %w", d.Name, err)
	}
	m.reporter.AddWritten(d.Size)
	return nil
}

// openImage opens the image at an offset.
func (m *installation) openImage(ctx context.Context, offset int64) (io.ReadCloser, error) {
	body, err := m.client.Image(ctx, offset, m.plan.ImageDigest)
	if err != nil {
		return nil, err
	}
	if m.g.faults[InstallerStall] || m.g.faults[PowersOff] {
		return &haltingBody{ReadCloser: body, left: m.plan.ImageSize/2 - offset, halt: func() error { return m.halt(ctx) }}, nil
	}
	return body, nil
}

// halt is what a fault does in the middle of the image.
func (m *installation) halt(ctx context.Context) error {
	if m.g.faults[PowersOff] {
		m.g.finish(errPowerLost)
	}
	// A machine that hangs reports nothing more.
	if err := pause(ctx, stallReports); err != nil {
		return err
	}
	m.reporter.Stop()
	return halt(ctx)
}

// haltingBody calls halt, which blocks, when left bytes were read.
type haltingBody struct {
	io.ReadCloser
	left int64
	halt func() error
}

func (b *haltingBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, b.halt()
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// adapt records what the installed system is. The disk is complete before it is
// reported.
func (m *installation) adapt() (*record, error) {
	m.reporter.Enter(installerapi.StagePartition, "")
	m.reporter.Enter(installerapi.StageConfigure, "vda1 fills the disk")
	if _, err := installer.CloudInitFiles(m.plan.SeedURL, m.plan.NetworkConfig); err != nil {
		return nil, err
	}
	r := &record{
		Installed: true, Image: m.plan.ImageDigest, Hostname: m.plan.Hostname,
		SeedURL: m.plan.SeedURL, NetworkConfig: m.plan.NetworkConfig,
	}
	if err := r.store(m.g.config.Disk); err != nil {
		return nil, fmt.Errorf("configuring the installed system: %w", err)
	}
	return r, nil
}

// fail reports the error and waits as the installer does.
func (m *installation) fail(ctx context.Context, err error) {
	if m.client == nil {
		m.g.installerLine("pxelab: Failed " + err.Error())
	} else {
		reportCtx, cancel := context.WithTimeout(ctx, installerFailReport)
		defer cancel()
		if !m.reporter.Started() { // failed while fetching the plan
			m.reporter.Start(m.report)
		}
		if rerr := m.reporter.Finish(reportCtx, installerapi.StageFailed, err.Error()); rerr != nil {
			m.g.installerLine("pxelab: cannot report the failure to the server: " + rerr.Error())
		}
	}
	m.g.installerLine(fmt.Sprintf("pxelab: starting over in %s", installerFailPause))
	_ = pause(ctx, m.g.failPause)
}
