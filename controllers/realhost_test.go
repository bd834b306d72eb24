// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/bootfile/bootfiletest"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/qemu/qemutest"
	"github.com/pxelab/pxelab/internal/qemuimg"
)

// realHost is a host on which everything but the guests is real: qemu.Local runs
// machines as processes of the fake of QEMU's program, and the content library has a
// store. The netbootd of a provisioning VM is a server of the test, to which the
// forwarded port of the VM's process leads.
type realHost struct {
	*qemu.Local
	lab     *lab
	program *qemutest.Program
	content *recordedContent
	store   *artifact.Store
	images  string
}

// recordedContent is the content library, and the credentials in the seeds that it wrote.
type recordedContent struct {
	*content.Library

	mu          sync.Mutex
	credentials map[string]*netbootapi.Credentials // by path of the seed
}

func (c *recordedContent) ServerSeed(path string, seed content.ServerSeed) error {
	c.mu.Lock()
	c.credentials[path] = seed.Credentials
	c.mu.Unlock()
	return c.Library.ServerSeed(path, seed)
}

func (c *recordedContent) seeded(path string) *netbootapi.Credentials {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.credentials[path]
}

// useRealHost moves an empty lab to a real host and restarts its manager there.
func (l *lab) useRealHost() *realHost {
	l.t.Helper()
	h := &realHost{lab: l, program: qemutest.BuildProgram(l.t), images: l.t.TempDir()}
	h.program.Set(l.t, "", qemutest.Faults{PowerButton: true})
	var err error
	h.store, err = artifact.Open(artifact.Options{Dir: filepath.Join(l.data, "artifacts"), ImagesDir: h.images})
	l.must(err)
	disks, err := qemuimg.New(qemuimg.Options{})
	l.must(err)
	h.content = &recordedContent{
		Library:     content.New(content.Options{Store: h.store, Disks: disks, ImagesDir: h.images, ProgramsDir: h.guestPrograms()}),
		credentials: map[string]*netbootapi.Credentials{},
	}
	h.Local, err = qemu.New(qemu.Options{
		DataDir: l.data, RuntimeDir: l.runtime, FirmwareDirs: h.program.FirmwareDirs, Readable: h.program.Readable, Accelerator: machine.TCG, Log: logr.Discard(),
	})
	l.must(err)
	l.t.Cleanup(h.close)
	l.adapt = func(host *controllers.Host) {
		host.Machines = h
		host.Content = h.content
		host.Artifacts = h.content
	}
	l.restart()
	return h
}

// close stops the manager and all machines.
func (h *realHost) close() {
	h.lab.stopManager()
	all, err := h.List(context.Background())
	for _, s := range all {
		_, stopErr := h.Stop(context.Background(), s.ID, machine.StopOptions{})
		err = errors.Join(err, stopErr)
	}
	h.Local.Close()
	if err := errors.Join(err, h.store.Close()); err != nil {
		h.lab.t.Errorf("releasing the host: got error %v, want none", err)
	}
}

// Start starts a machine, and the netbootd of a provisioning VM.
func (h *realHost) Start(ctx context.Context, m machine.Machine) error {
	before, err := h.Observe(ctx, m.ID)
	if err == nil {
		err = h.Local.Start(ctx, m)
	}
	if err != nil || before.Phase.Alive() {
		return err
	}
	for _, d := range m.Disks {
		if d.ID == plan.DeviceSeed {
			return h.startNetbootd(m.ID, h.content.seeded(d.Path))
		}
	}
	return nil
}

func (h *realHost) startNetbootd(id string, credentials *netbootapi.Credentials) error {
	m := h.lab.machines
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.startNetbootd(credentials, m.kept[id])
	m.netbootds[id] = n
	return h.program.Serve(id, plan.AgentPort, n.Address())
}

// Stop stops a machine, and the netbootd of a provisioning VM.
func (h *realHost) Stop(ctx context.Context, id string, o machine.StopOptions) (machine.StopMethod, error) {
	how, err := h.Local.Stop(ctx, id, o)
	if err == nil {
		h.lab.machines.unplug(id)
		err = h.program.Serve(id, plan.AgentPort, "")
	}
	return how, err
}

// guestPrograms returns a directory with stand-ins for the programs of guests.
func (h *realHost) guestPrograms() string {
	dir := h.lab.t.TempDir()
	for _, name := range []string{"netbootd", "installer"} {
		for _, arch := range []string{"amd64", "arm64"} {
			path := filepath.Join(dir, name+"-linux-"+arch)
			h.lab.must(os.WriteFile(path, []byte(name+" for "+arch), 0o600))
		}
	}
	// Only recent builds of iPXE contain this name.
	const recent = "initrd.magic"
	h.put("ipxe/ipxe-x86_64.efi", bootfiletest.Program("x86_64", recent))
	h.put("ipxe/ipxe-arm64.efi", bootfiletest.Program("aarch64", recent))
	return dir
}

// put adds a file to the images folder, or replaces it.
func (h *realHost) put(name string, text []byte) v1alpha1.ArtifactSource {
	h.lab.t.Helper()
	path := filepath.Join(h.images, name)
	h.lab.must(errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, text, 0o600)))
	sum := sha256.Sum256(text)
	return v1alpha1.ArtifactSource{Path: v1alpha1.ArtifactPath(name), Checksum: v1alpha1.Checksum("sha256:" + hex.EncodeToString(sum[:]))}
}

// putImage adds a small disk image to the images folder.
func (h *realHost) putImage(name string) v1alpha1.ArtifactSource {
	h.lab.t.Helper()
	raw := filepath.Join(h.lab.t.TempDir(), "raw")
	text := make([]byte, 1<<20)
	copy(text[1<<19:], name)
	h.lab.must(os.WriteFile(raw, text, 0o600))
	path := filepath.Join(h.images, name)
	if out, err := exec.CommandContext(h.lab.ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path).CombinedOutput(); err != nil {
		h.lab.t.Fatalf("creating %s: %v\n%s", name, err, out)
	}
	text, err := os.ReadFile(path)
	h.lab.must(err)
	return h.put(name, text)
}

// newServer and newProfile are those of every lab with files that exist.

func (h *realHost) newServer(name string) *v1alpha1.ProvisioningServer {
	h.lab.t.Helper()
	server := newServer(name)
	server.Spec.Machine.Image.ArtifactSource = h.putImage("server.qcow2")
	return server
}

func (h *realHost) newProfile(name string) *v1alpha1.BootProfile {
	h.lab.t.Helper()
	profile := newProfile(name)
	image, initrd := h.putImage(name+".qcow2"), h.put(name+"-initrd", bootfiletest.Initrd(""))
	profile.Spec.Image.Source.Path = image.Path
	profile.Spec.Image.Source.Checksum = image.Checksum
	profile.Spec.Image.Initrd = &initrd
	*profile.Spec.Image.Kernel = h.kernel(0)
	return profile
}

// kernel replaces the kernel in the images folder by another version.
func (h *realHost) kernel(version int) v1alpha1.ArtifactSource {
	h.lab.t.Helper()
	return h.put("kernel", bootfiletest.Kernel("x86_64", fmt.Sprintf("version %4d", version)))
}
