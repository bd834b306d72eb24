// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

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
	referred, err := h.referredArtifacts(plan.References(profiles.Items, servers.Items))
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
func (h *housekeeper) referredArtifacts(refs plan.ArtifactReferences) (map[string]bool, error) {
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
	bases, err := diskBases(filepath.Join(h.host.DataDir, "machines"), h.host.RetainedDir)
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
// files.
func diskBases(parents ...string) ([]string, error) {
	var bases []string
	for _, parent := range parents {
		disks, err := filepath.Glob(filepath.Join(parent, "*", "*.qcow2"))
		if err != nil {
			return nil, fmt.Errorf("listing the disks of servers: %w", err)
		}
		for _, disk := range disks {
			base, err := qemuimg.BackingFile(disk)
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed since
			}
			if err != nil {
				return nil, err
			}
			if base != "" {
				bases = append(bases, base)
			}
		}
	}
	return bases, nil
}
