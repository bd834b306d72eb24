// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/task"
)

// programs are the network boot programs of a server and where they are.
type programs struct {
	list  []agent.Program
	paths map[string]string // digest to path
}

// programNames are the TFTP names by which targets ask.
var programNames = map[v1alpha1.Architecture]string{
	v1alpha1.ArchitectureX86_64:  "ipxe.efi",
	v1alpha1.ArchitectureAArch64: "ipxe-arm64.efi",
}

// ensurePrograms finds iPXE for every architecture: as declared, else the
// host's own. An architecture without one is fine unless it is declared;
// targets of that architecture say so.
func (r *ProvisioningServerReconciler) ensurePrograms(_ context.Context, w *serverWork) (bool, time.Duration, error) {
	w.programs.paths = map[string]string{}
	add := func(arch v1alpha1.Architecture, digest string, size int64, path string) {
		w.programs.list = append(w.programs.list, agent.Program{
			Architecture: string(arch), Name: programNames[arch], Blob: agent.Blob{Digest: digest, Size: size}})
		w.programs.paths[digest] = path
	}
	type pending struct {
		name   string
		status task.Status[artifact.Progress, content.Blob]
	}
	var unfinished []pending
	var missing []error
	for _, arch := range slices.Sorted(maps.Keys(programNames)) {
		declared := slices.IndexFunc(w.server.Spec.IPXE, func(p v1alpha1.IPXEProgram) bool { return p.Architecture == arch })
		if declared < 0 {
			p, err := r.Host.Content.Program(string(arch))
			if err == nil {
				add(arch, p.Digest, p.Size, p.Path)
			}
			missing = append(missing, err)
			continue
		}
		src := artifactSource(w.server.Spec.IPXE[declared].Source, "")
		status := r.fetch.Run(taskKey(w.server.UID, "ipxe-"+string(arch)), digestOf(src),
			func(ctx context.Context, report func(artifact.Progress)) (content.Blob, error) {
				return r.Host.Content.File(ctx, src, report)
			})
		if !status.Done {
			unfinished = append(unfinished, pending{"iPXE for " + string(arch), status})
			continue
		}
		path, ok := r.Host.Content.Path(status.Result.Digest)
		if !ok {
			r.fetch.Forget(taskKey(w.server.UID, "ipxe-"+string(arch)))
			return false, time.Second, nil
		}
		add(arch, status.Result.Digest, status.Result.Size, path)
	}
	if len(unfinished) > 0 {
		// An error is told before what is still on its way.
		told := max(0, slices.IndexFunc(unfinished, func(p pending) bool { return p.status.Err != nil }))
		return r.fetched(w, unfinished[told].name, unfinished[told].status)
	}
	if len(w.programs.list) == 0 {
		waiting(w.server, v1alpha1.ServerFailed, no(v1alpha1.ConditionImageReady, v1alpha1.ReasonNoIPXEProgram, errors.Join(missing...).Error()))
		return false, recheckEvery, nil
	}
	return true, 0, nil
}

// serverSSHUser is the account of a provisioning VM that "kubectl lab ssh" uses.
const serverSSHUser = "lab"

// writeSeed writes what the VM is to be told at its next start.
func (r *ProvisioningServerReconciler) writeSeed(w *serverWork) error {
	uid := string(w.server.UID)
	err := r.Host.Content.ServerSeed(plan.SeedPath(w.paths.Dir, w.sshKeys()), content.ServerSeed{
		InstanceID: "pxelab-" + uid, Hostname: w.server.Name,
		Architecture: string(w.server.Spec.Machine.Architecture),
		Credentials:  w.secrets.trust.Newest(),
		SSHUser:      serverSSHUser, SSHHostKey: w.secrets.hostKey, SSHAuthorizedKeys: w.sshKeys(),
		UplinkMAC: plan.MAC(uid, plan.DeviceUplink), LabMAC: plan.MAC(uid, plan.DeviceLab),
		LabAddress: netip.PrefixFrom(w.network.Server, w.network.Prefix.Bits()), MTU: w.network.MTU,
	})
	if err != nil {
		return fmt.Errorf("writing the seed: %w", err)
	}
	return nil
}

// sshKeys may log in: the lab's own key and those declared.
func (w *serverWork) sshKeys() []string {
	return append([]string{w.secrets.sshKey}, w.server.Spec.SSHAuthorizedKeys...)
}

// document is what netbootd ought to serve, and where the content is.
func (r *ProvisioningServerReconciler) document(ctx context.Context, w *serverWork, seen agent.State) (*agent.Config, map[string]string, error) {
	targets, err := r.targets(ctx, w.server)
	if err != nil {
		return nil, nil, err
	}
	w.server.Status.Targets = int32(min(len(targets), 1<<20))
	in := plan.DocumentInput{
		Network: w.network, LabMAC: plan.MAC(string(w.server.UID), plan.DeviceLab),
		Programs: w.programs.list, TokenKey: w.secrets.tokenKey, SSHKeys: w.sshKeys(),
	}
	paths := w.programs.paths
	for i := range targets {
		t := &targets[i]
		if !t.DeletionTimestamp.IsZero() {
			continue
		}
		d, err := r.documentTarget(ctx, t, paths)
		if err != nil {
			return nil, nil, err
		}
		in.Targets = append(in.Targets, d)
	}
	in.Targets = r.underway.hold(w.server.UID, in.Targets, seen.Machines)
	for _, t := range in.Targets {
		r.located(t.Content, paths) // what is held is not what the profile says now
	}
	return plan.Document(in), paths, nil
}

func (r *ProvisioningServerReconciler) documentTarget(ctx context.Context, t *v1alpha1.BareMetalTarget, paths map[string]string) (plan.DocumentTarget, error) {
	d := plan.DocumentTarget{Target: t}
	profile := &v1alpha1.BootProfile{}
	err := r.Get(ctx, types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.BootProfileRef.Name}, profile)
	if client.IgnoreNotFound(err) != nil {
		return d, fmt.Errorf("reading profile %s: %w", t.Spec.BootProfileRef.Name, err)
	}
	if err == nil {
		d.Profile = profile
		var invalid *plan.InvalidError
		if d.Texts, err = resolveTexts(ctx, r.Client, profile); err != nil && !errors.As(err, &invalid) {
			return d, err
		}
		if err == nil {
			d.Content = r.located(contentOf(profile), paths)
		}
	}
	state, err := r.Host.Machines.Observe(ctx, string(t.UID))
	if err != nil {
		return d, fmt.Errorf("observing target %s: %w", t.Name, err)
	}
	if state.Phase.Alive() {
		d.PowerOn = state.StartedAt
	}
	return d, nil
}

// located notes where a profile's content is; nil when some of it is not here.
func (r *ProvisioningServerReconciler) located(c *plan.Content, paths map[string]string) *plan.Content {
	if c == nil {
		return nil
	}
	for _, blob := range []agent.Blob{c.Kernel, c.Initrd, c.Overlay, c.Image} {
		path, ok := r.Host.Content.Path(blob.Digest)
		if !ok {
			return nil
		}
		paths[blob.Digest] = path
	}
	return c
}

const (
	maxLeases  = 256
	maxUnknown = 16
)

// showClients puts leases and strangers into the status.
func (r *ProvisioningServerReconciler) showClients(s *v1alpha1.ProvisioningServer, machines []agent.Machine, state agent.State) {
	names := map[string]string{}
	for _, m := range machines {
		names[m.MAC] = m.Name
	}
	s.Status.Leases = nil
	for _, l := range state.Leases[:min(len(state.Leases), maxLeases)] {
		s.Status.Leases = append(s.Status.Leases, v1alpha1.Lease{
			MACAddress: l.MAC, Address: l.Address.String(), Hostname: l.Hostname, Target: names[l.MAC]})
	}
	slices.SortFunc(s.Status.Leases, func(a, b v1alpha1.Lease) int { return strings.Compare(a.MACAddress, b.MACAddress) })
	s.Status.UnknownClients = nil
	for _, u := range state.Unknown[:min(len(state.Unknown), maxUnknown)] {
		shown := v1alpha1.UnknownClient{MACAddress: u.MAC, Architecture: u.Architecture}
		if u.Address.IsValid() {
			shown.Address = u.Address.String()
		}
		s.Status.UnknownClients = append(s.Status.UnknownClients, shown)
	}
	slices.SortFunc(s.Status.UnknownClients, func(a, b v1alpha1.UnknownClient) int { return strings.Compare(a.MACAddress, b.MACAddress) })
}
