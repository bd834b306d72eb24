// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/bootfile/bootfiletest"
	"github.com/pxelab/pxelab/internal/content"
)

// realFiles is a library whose kernels, initrds and boot programs are in an artifact store.
type realFiles struct {
	*library
	files *content.Library
}

func (r realFiles) File(ctx context.Context, src artifact.Source, progress func(artifact.Progress)) (content.Blob, error) {
	return r.files.File(ctx, src, progress)
}

func (r realFiles) Path(digest string) (string, bool) {
	if path, ok := r.files.Path(digest); ok {
		return path, true
	}
	return r.library.Path(digest)
}

// useRealFiles replaces the lab's kernels, initrds and boot programs by those of an artifact
// store, and returns a function that adds one.
func (l *lab) useRealFiles() func(name string, text []byte) v1alpha1.ArtifactSource {
	l.t.Helper()
	images := l.t.TempDir()
	store, err := artifact.Open(artifact.Options{Dir: filepath.Join(l.t.TempDir(), "store"), ImagesDir: images})
	l.must(err)
	l.t.Cleanup(func() {
		l.stopManager()
		l.must(store.Close())
	})
	l.adapt = func(host *controllers.Host) {
		host.Content = realFiles{l.library, content.New(content.Options{Store: store, ImagesDir: images})}
	}
	l.restart()
	return func(name string, text []byte) v1alpha1.ArtifactSource {
		l.t.Helper()
		l.must(os.WriteFile(filepath.Join(images, name), text, 0o600))
		sum := sha256.Sum256(text)
		return v1alpha1.ArtifactSource{Path: v1alpha1.ArtifactPath(name), Checksum: v1alpha1.Checksum("sha256:" + hex.EncodeToString(sum[:]))}
	}
}

func TestConditionsNameWrongBootFiles(t *testing.T) {
	l := newLab(t)
	add := l.useRealFiles()
	page := add("page", []byte("<html><body>404 Not Found</body></html>"))
	kernel, other := add("kernel", bootfiletest.Kernel("x86_64", "")), add("other", bootfiletest.Kernel("aarch64", ""))
	initrd, program := add("initrd", bootfiletest.Initrd("")), add("ipxe", bootfiletest.Program("x86_64", ""))

	profile := newProfile("debian")
	profile.Spec.Image.Kernel, profile.Spec.Image.Initrd = &page, &initrd
	l.create(profile)
	for _, c := range []struct {
		kernel, initrd v1alpha1.ArtifactSource
		message        string
	}{
		{page, initrd, "kernel: page is an HTML page, but the kernel must be a Linux kernel for x86_64"},
		{other, initrd, "kernel: other is a Linux kernel for aarch64, but the kernel must be a Linux kernel for x86_64"},
		{kernel, kernel, "initrd: kernel is a Linux kernel for x86_64, but the initrd must be an initrd for x86_64"},
	} {
		update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.Kernel, p.Spec.Image.Initrd = &c.kernel, &c.initrd })
		l.waitCondition(profile, v1alpha1.ConditionArtifactsReady, "False", v1alpha1.ReasonUnsupported, c.message)
	}
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.Kernel, p.Spec.Image.Initrd = &kernel, &initrd })
	l.waitCondition(profile, v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")

	server := newServer("lab")
	server.Spec.IPXE = []v1alpha1.IPXEProgram{{Architecture: v1alpha1.ArchitectureX86_64, Source: page}}
	l.create(server)
	l.waitCondition(server, v1alpha1.ConditionImageReady, "False", v1alpha1.ReasonUnsupported,
		"page is an HTML page, but the boot program must be a UEFI program for x86_64")
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) { s.Spec.IPXE[0].Source = program })
	l.waitCondition(server, v1alpha1.ConditionImageReady, "True", v1alpha1.ReasonAvailable, "")
}
