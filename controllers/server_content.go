// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/bootfile"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/plan"
)

// programs are the network boot programs of a server and their files.
type programs struct {
	list  []netbootapi.Program
	paths map[string]string // digest to path
	// unfetched means that one is being fetched, or cannot be, although the machine runs.
	unfetched bool
}

// programNames are the TFTP file names that targets request.
var programNames = map[v1alpha1.Architecture]string{
	v1alpha1.ArchitectureX86_64:  "ipxe.efi",
	v1alpha1.ArchitectureAArch64: "ipxe-arm64.efi",
}

// ensurePrograms finds iPXE for every architecture: from the spec, else the host's. An
// architecture without one is an error only if the spec names it; targets of that
// architecture report it.
func (r *ProvisioningServerReconciler) ensurePrograms(_ context.Context, scope *serverScope) (*halt, error) {
	scope.programs.paths = map[string]string{}
	add := func(arch v1alpha1.Architecture, digest string, size int64, path string) {
		scope.programs.list = append(scope.programs.list, netbootapi.Program{
			Architecture: string(arch), Name: programNames[arch], Blob: netbootapi.Blob{Digest: digest, Size: size}})
		scope.programs.paths[digest] = path
	}
	type pending struct {
		name   string
		status task.Status[artifact.Progress, content.Blob]
	}
	var unfinished []pending
	var missing []error
	for _, arch := range slices.Sorted(maps.Keys(programNames)) {
		declared := slices.IndexFunc(scope.server.Spec.IPXE, func(p v1alpha1.IPXEProgram) bool { return p.Architecture == arch })
		if declared < 0 {
			p, err := r.Host.Content.Program(string(arch))
			if err == nil {
				add(arch, p.Digest, p.Size, p.Path)
			}
			missing = append(missing, err)
			continue
		}
		src := artifactSource(scope.server.Spec.IPXE[declared].Source, "")
		src.Boot = bootfile.Expectation{Kind: bootfile.Program, Architecture: string(arch)}
		status := r.fetch.Run(taskKey(scope.server.UID, "ipxe-"+string(arch)), plan.DigestOf(src),
			inSlot(r.slots, scope.server.Namespace, scope.server.Name,
				func(ctx context.Context, report func(artifact.Progress)) (content.Blob, error) {
					return r.Host.Content.File(ctx, src, report)
				}))
		if !status.Done {
			unfinished = append(unfinished, pending{"iPXE for " + string(arch), status})
			continue
		}
		path, ok := r.Host.Content.Path(status.Result.Digest)
		if !ok {
			r.fetch.Forget(taskKey(scope.server.UID, "ipxe-"+string(arch)))
			return scope.keepStatus(time.Second), nil
		}
		add(arch, status.Result.Digest, status.Result.Size, path)
	}
	if len(unfinished) > 0 {
		// An error takes precedence over progress.
		first := max(0, slices.IndexFunc(unfinished, func(p pending) bool { return p.status.Err != nil }))
		if scope.state.Phase.Alive() {
			scope.keepPrograms(unfinished[first].name, unfinished[first].status)
			return nil, nil
		}
		return r.fetched(scope, unfinished[first].name, unfinished[first].status), nil
	}
	if len(scope.programs.list) == 0 {
		waiting(scope.server, v1alpha1.ServerFailed,
			conditionFalse(v1alpha1.ConditionImageReady, v1alpha1.ReasonNoIPXEProgram, errors.Join(missing...).Error()))
		return requeueAfter(resyncInterval), nil
	}
	return nil, nil
}

// keepPrograms makes a machine that runs keep the configuration that it has, because one of
// the current programs is not there: targets need the connection to it.
func (scope *serverScope) keepPrograms(name string, status task.Status[artifact.Progress, content.Blob]) {
	s := scope.server
	scope.programs.unfetched = true
	problem := fmt.Errorf("%s: %s", name, progressText(status.Progress))
	if status.Err != nil {
		problem = fmt.Errorf("%s: %w", name, status.Err)
		setCondition(&s.Status.Conditions, s.Generation,
			conditionFalse(v1alpha1.ConditionImageReady, artifactReason(status.Err), problem.Error()))
	}
	if scope.invalid == nil {
		scope.invalid = problem
	}
}

// serverSSHUser is the account of a provisioning VM that "kubectl lab ssh" uses.
const serverSSHUser = "lab"

// writeSeed writes the seed that the VM reads at its next start.
func (r *ProvisioningServerReconciler) writeSeed(scope *serverScope) error {
	uid := string(scope.server.UID)
	err := r.Host.Content.ServerSeed(plan.SeedPath(scope.paths.Dir, scope.sshKeys()), content.ServerSeed{
		InstanceID: "pxelab-" + uid, Hostname: scope.server.Name,
		Architecture: string(scope.server.Spec.Machine.Architecture),
		Credentials:  scope.secrets.trust.Newest(),
		SSHUser:      serverSSHUser, SSHHostKey: scope.secrets.hostKey, SSHAuthorizedKeys: scope.sshKeys(),
		UplinkMAC: plan.MAC(uid, plan.DeviceUplink), LabMAC: plan.MAC(uid, plan.DeviceLab),
		LabAddress: netip.PrefixFrom(scope.network.Server, scope.network.Prefix.Bits()), MTU: scope.network.MTU,
	})
	if err != nil {
		return fmt.Errorf("writing the seed: %w", err)
	}
	return nil
}

// sshKeys returns the keys that may log in: the lab's and those of the spec.
func (scope *serverScope) sshKeys() []string {
	return append([]string{scope.secrets.sshKey}, scope.server.Spec.SSHAuthorizedKeys...)
}

const (
	maxLeases  = 256
	maxUnknown = 16
)

// setClients records leases, unknown clients and netbootd's version in the status.
func setClients(s *v1alpha1.ProvisioningServer, targets []v1alpha1.BareMetalTarget, state netbootapi.State) {
	names := map[string]string{}
	for i := range targets {
		for _, nic := range targets[i].Status.NICs {
			names[nic.MAC] = targets[i].Name
		}
	}
	s.Status.NetbootdVersion = state.ShownVersion()
	s.Status.Leases = nil
	for _, l := range state.Leases[:min(len(state.Leases), maxLeases)] {
		s.Status.Leases = append(s.Status.Leases, v1alpha1.Lease{
			MACAddress: l.MAC, Address: l.Address.String(), Hostname: l.Hostname, Target: names[l.MAC]})
	}
	slices.SortFunc(s.Status.Leases, func(a, b v1alpha1.Lease) int { return strings.Compare(a.MACAddress, b.MACAddress) })
	s.Status.UnknownClients = unknownClients(state.Unknown)
}

// unknownClients returns the clients that the status lists: the last discovered ones,
// by MAC address. Requests of clients that are known already change nothing.
func unknownClients(unknown []netbootapi.UnknownClient) []v1alpha1.UnknownClient {
	latest := slices.SortedFunc(slices.Values(unknown), func(a, b netbootapi.UnknownClient) int {
		return cmp.Or(b.FirstSeen.Compare(a.FirstSeen), strings.Compare(a.MAC, b.MAC))
	})
	var shown []v1alpha1.UnknownClient
	for _, u := range latest[:min(len(latest), maxUnknown)] {
		client := v1alpha1.UnknownClient{MACAddress: u.MAC, Architecture: u.Architecture}
		if u.Address.IsValid() {
			client.Address = u.Address.String()
		}
		shown = append(shown, client)
	}
	slices.SortFunc(shown, func(a, b v1alpha1.UnknownClient) int { return strings.Compare(a.MACAddress, b.MACAddress) })
	return shown
}
