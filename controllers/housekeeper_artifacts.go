// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemuimg"
)

// pruneArtifacts removes artifacts to which no object, disk or connection refers.
func (h *housekeeper) pruneArtifacts(ctx context.Context) error {
	stored, err := h.host.Artifacts.Inventory()
	if err != nil {
		return err
	}
	profiles, servers := &v1alpha1.BootProfileList{}, &v1alpha1.ProvisioningServerList{}
	if err := errors.Join(h.List(ctx, profiles), h.List(ctx, servers)); err != nil {
		return fmt.Errorf("listing what refers to artifacts: %w", err)
	}
	if !h.reconciled(profiles.Items, servers.Items) {
		return nil // the next pass may be complete
	}
	referred, err := h.referredArtifacts(ctx, plan.References(profiles.Items, servers.Items))
	if err != nil {
		return err
	}
	free, err := h.host.Artifacts.FreeSpace()
	if err != nil {
		return fmt.Errorf("determining the free space for artifacts: %w", err)
	}
	o := h.host.Housekeeping
	in := plan.PruneInput{Referred: referred, Now: h.host.Now(), Grace: o.ArtifactGrace, Free: free, Floor: o.ArtifactFloor}
	found := map[string]artifact.Stored{}
	for _, s := range stored {
		in.Stored = append(in.Stored, plan.StoredArtifact{Digest: s.Digest, Bytes: s.Bytes, UsedAt: s.UsedAt, From: s.From})
		found[s.Digest] = s
	}
	var unused []artifact.Stored
	for _, a := range plan.UnusedArtifacts(in) {
		unused = append(unused, found[a.Digest])
	}
	removed, err := h.host.Artifacts.Remove(ctx, unused)
	if removed.Files > 0 {
		ctrl.LoggerFrom(ctx).Info("Removed unused artifacts", "files", removed.Files, "bytes", removed.Bytes,
			"kept", len(stored)-removed.Files, "freeBytesBefore", free)
	}
	return err
}

// referredArtifacts returns the digests to which objects, the disks on this host, and
// the connections to servers refer.
func (h *housekeeper) referredArtifacts(ctx context.Context, refs plan.ArtifactReferences) (map[string]bool, error) {
	referred := map[string]bool{}
	for _, digest := range refs.Digests {
		referred[digest] = true
	}
	for _, src := range refs.Sources {
		if digest, ok := h.host.Artifacts.Recorded(artifactSource(src.ArtifactSource, v1alpha1.ImageFormat(src.Format))); ok {
			referred[digest] = true
		}
	}
	for _, digest := range h.host.Sessions.Content() {
		referred[digest] = true
	}
	bases, err := h.diskBases(ctx, filepath.Join(h.host.DataDir, "machines"), h.host.RetainedDir)
	if err != nil {
		return nil, err
	}
	for _, base := range bases {
		// The store names content by its digest.
		referred["sha256:"+filepath.Base(base)] = true
	}
	return referred, nil
}

// diskBases returns the files on which the disks of provisioning VMs are based. QEMU
// wrote the headers of these disks; those of targets, which guests could write, are raw
// files. A disk whose header is damaged has no known base, which is kept only as long as
// an object refers to it: QEMU cannot open the disk.
func (h *housekeeper) diskBases(ctx context.Context, parents ...string) ([]string, error) {
	var bases []string
	damaged := map[string]bool{}
	for _, parent := range parents {
		machines, err := filesIn(parent)
		if err != nil {
			return nil, fmt.Errorf("listing the disks of servers: %w", err)
		}
		for _, dir := range machines {
			disks, err := filesIn(dir, ".qcow2")
			if err != nil {
				return nil, fmt.Errorf("listing the disks of servers: %w", err)
			}
			for _, disk := range disks {
				base, err := qemuimg.BackingFile(disk)
				switch {
				case errors.Is(err, fs.ErrNotExist): // removed since
				case errors.Is(err, qemuimg.ErrDamagedHeader):
					damaged[disk] = true
					if !h.damaged[disk] {
						ctrl.LoggerFrom(ctx).Error(err, "A disk is damaged; its image is not kept for it", "disk", disk)
					}
				case err != nil:
					return nil, err
				case base != "":
					bases = append(bases, base)
				}
			}
		}
	}
	h.damaged = damaged
	return bases, nil
}

// filesIn returns the paths of a directory's entries with one of the extensions, or of all
// if there are none. What does not exist or is not a directory has no entries. Unlike
// filepath.Glob it accepts any character in dir.
func filesIn(dir string, extensions ...string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if len(extensions) == 0 || slices.Contains(extensions, filepath.Ext(e.Name())) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}
