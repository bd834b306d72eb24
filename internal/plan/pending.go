// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/startrecord"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// Fields of a target whose changes apply at the next power-on.
const (
	fieldCPUs       = "spec.machine.cpus"
	fieldMemory     = "spec.machine.memory"
	fieldSimulation = "spec.machine.simulation"
)

// Fields of a server whose changes apply at the next power-on, besides fieldCPUs and
// fieldMemory.
const (
	fieldDiskSize    = "spec.machine.diskSize"
	fieldServerImage = "spec.machine.image"
	fieldSSHKeys     = "spec.sshAuthorizedKeys"
	fieldGateway     = "spec.network.gateway"
)

// Fields whose changes apply at the next installation of a target.
const (
	fieldProfileRef = "spec.bootProfileRef"
	fieldNICs       = "spec.machine.nics"
	fieldRootDisk   = "spec.rootDisk"
	fieldHostname   = "spec.hostname"
	fieldParameters = "spec.parameters"

	fieldImage         = "bootProfile.spec.image.source"
	fieldKernel        = "bootProfile.spec.image.kernel"
	fieldInitrd        = "bootProfile.spec.image.initrd"
	fieldRoot          = "bootProfile.spec.image.root"
	fieldKernelArgs    = "bootProfile.spec.image.kernelArgs"
	fieldHandoff       = "bootProfile.spec.image.handoff"
	fieldSSHUser       = "bootProfile.spec.sshUser"
	fieldUserData      = "bootProfile.spec.userData"
	fieldNetworkConfig = "bootProfile.spec.networkConfig"
	fieldIPXETemplate  = "bootProfile.spec.ipxeTemplate"

	fieldNetwork    = networkFields + "cidr"
	fieldLabDomain  = networkFields + "domain"
	fieldLabDNS     = networkFields + "dns"
	fieldLabGateway = networkFields + "gateway"
)

// networkFields is the beginning of the fields of a target's server that an installed
// system was configured with.
const networkFields = "provisioningServer.spec.network."

// TargetStart returns the values from which a target's machine is started.
func TargetStart(t *v1alpha1.BareMetalTarget) map[string]string {
	m := t.Spec.Machine
	return map[string]string{
		fieldCPUs:       DigestOf(m.CPUs),
		fieldMemory:     DigestOf(m.Memory.Value()),
		fieldSimulation: simulationDigest(m),
	}
}

// ServerStart returns the values from which a server's machine is started.
func ServerStart(s *v1alpha1.ProvisioningServer) map[string]string {
	m := s.Spec.Machine
	return map[string]string{
		fieldCPUs:        DigestOf(m.CPUs),
		fieldMemory:      DigestOf(m.Memory.Value()),
		fieldDiskSize:    DigestOf(m.DiskSize.Value()),
		fieldServerImage: DigestOf(m.Image),
		fieldSSHKeys:     DigestOf(strings.Join(s.Spec.SSHAuthorizedKeys, "\n")),
		fieldGateway:     DigestOf(s.Spec.Network.Gateway),
	}
}

// PendingStart returns the changes of fields since the start of a machine that runs, in
// the order of their fields. It returns nil if the machine is off, or if the record is
// that of another start: then it is unknown what the machine was started from.
func PendingStart(fields map[string]string, state machine.State, started startrecord.Record) []v1alpha1.PendingChange {
	if !state.Phase.Alive() || state.Digest == "" || state.Digest != started.Digest {
		return nil
	}
	return changesOf(started.Fields, fields, v1alpha1.AppliesAtPowerOn)
}

// changesOf returns the fields whose values differ, in order. A field that only one of
// both has cannot be compared.
func changesOf(was, is map[string]string, at v1alpha1.ChangeEffect) []v1alpha1.PendingChange {
	var out []v1alpha1.PendingChange
	for _, field := range slices.Sorted(maps.Keys(is)) {
		if old, known := was[field]; known && old != is[field] {
			out = append(out, v1alpha1.PendingChange{Field: field, AppliesAt: at})
		}
	}
	return out
}

// declaration identifies the values from which a target is installed. A value that is not
// known, such as the image of a profile that is not ready, is left out.
func (in EntryInput) declaration(c *netbootapi.Content) *netbootapi.Declaration {
	key := textKey(in.TokenKey)
	values := map[string]any{
		fieldProfileRef: in.Target.Spec.BootProfileRef.Name,
		fieldNICs:       c.Address,
		fieldRootDisk:   declaredRootDisk(in.Target, c),
		fieldHostname:   c.Hostname,
		fieldParameters: slices.Collect(pairs(c.Parameters)),
	}
	maps.Copy(values, in.networkValues())
	if in.Profile != nil {
		values[fieldRoot] = c.Root
		values[fieldKernelArgs] = slices.Concat([]string{}, c.KernelArgs)
		values[fieldHandoff] = c.Handoff
		values[fieldSSHUser] = c.SSHUser
		values[fieldUserData] = c.UserDataTemplate
		values[fieldNetworkConfig] = c.NetworkConfigTemplate
		values[fieldIPXETemplate] = c.IPXETemplate
	}
	if c.ProfileDigest != "" {
		values[fieldImage] = c.ImagePin
		values[fieldKernel] = c.Kernel
		values[fieldInitrd] = c.Initrd
	}
	d := &netbootapi.Declaration{Key: keyID(key), Fields: map[string]string{}}
	for field, value := range values {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(field + "\x00"))
		mac.Write(encode(value))
		d.Fields[field] = hex.EncodeToString(mac.Sum(nil)[:8])
	}
	return d
}

// networkValues returns the values of the network that an installed system keeps: those in
// the default network configuration, or those that a template may use.
func (in EntryInput) networkValues() map[string]any {
	if !in.Network.Prefix.IsValid() || in.Profile == nil {
		return nil
	}
	values := map[string]any{}
	for field, v := range map[string]struct {
		name  string
		value any
	}{
		fieldLabDomain:  {".Domain", in.Network.Domain},
		fieldLabDNS:     {".DNS", slices.Concat([]netip.Addr{}, in.Network.DNS)},
		fieldLabGateway: {".Gateway", in.Network.NAT},
	} {
		if in.Templates.useNetworkValue(v.name) {
			values[field] = v.value
		}
	}
	return values
}

// pairs yields the entries of a map in the order of the keys.
func pairs(m map[string]string) func(yield func([2]string) bool) {
	return func(yield func([2]string) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield([2]string{k, m[k]}) {
				return
			}
		}
	}
}

// PendingInstall returns the changes of fields since a target's disk was installed, in the
// order of their fields. They are those that the status has if what is declared is not
// known, and none if what was installed is not.
func PendingInstall(t *v1alpha1.BareMetalTarget, r targetdisk.Record, in UpToDateInput) []v1alpha1.PendingChange {
	if !r.Installed {
		return nil
	}
	var out []v1alpha1.PendingChange
	switch was, is := r.Declared, in.Declared; {
	case was == nil:
	case is == nil:
		for _, c := range t.Status.PendingChanges {
			if c.AppliesAt == v1alpha1.AppliesAtInstall && c.Field != fieldNetwork {
				out = append(out, c)
			}
		}
	case was.Key == is.Key:
		out = changesOf(was.Fields, is.Fields, v1alpha1.AppliesAtInstall)
	}
	if networkChanged(r, in) {
		out = append(out, v1alpha1.PendingChange{Field: fieldNetwork, AppliesAt: v1alpha1.AppliesAtInstall})
	}
	slices.SortFunc(out, func(a, b v1alpha1.PendingChange) int { return cmp.Compare(a.Field, b.Field) })
	return out
}

// PendingChanges returns the changes of a target's spec and of what it refers to that have
// no effect yet.
func PendingChanges(t *v1alpha1.BareMetalTarget, o TargetObservation) []v1alpha1.PendingChange {
	in := upToDateInput(o)
	return append(PendingStart(TargetStart(t), o.Machine, o.Started), PendingInstall(t, o.Record, in)...)
}

// fieldsOf returns the fields whose changes apply at a time: those of the object's own spec
// and those of a target's server, but for the prefix of the network. Changes of a profile
// and of the prefix have messages of their own kind.
func fieldsOf(changes []v1alpha1.PendingChange, at v1alpha1.ChangeEffect) []string {
	var out []string
	for _, c := range changes {
		ofServer := strings.HasPrefix(c.Field, networkFields) && c.Field != fieldNetwork
		if c.AppliesAt == at && (ofServer || strings.HasPrefix(c.Field, "spec.")) {
			out = append(out, c.Field)
		}
	}
	return out
}
