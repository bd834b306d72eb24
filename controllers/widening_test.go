// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// The schema accepts a wider network with the same first address, and the way back to the
// one that is in use.
func TestSchemaAllowsWidening(t *testing.T) {
	s := newServer("lab")
	s.Namespace = makeNamespace(t)
	s.Spec.Network.CIDR = "10.88.0.0/24"
	if err := cluster.client.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	set := func(cidr string) error {
		base := s.DeepCopy()
		s.Spec.Network.CIDR = cidr
		err := cluster.client.Patch(t.Context(), s, client.MergeFrom(base))
		if err != nil {
			*s = *base
		}
		return err
	}
	for _, step := range []struct {
		cidr, inUse string
		accepted    bool
	}{
		{"10.88.0.0/25", "", false},
		{"10.88.0.0/23", "", true},
		{"10.88.0.0/24", "", false},
		{"10.88.0.0/20", "10.88.0.0/23", true},
		{"10.88.0.0/22", "10.88.0.0/23", false},
		{"10.88.0.0/23", "10.88.0.0/23", true},
		{"10.88.0.0/20", "10.88.0.0/23", true},
		{"10.88.0.0/23", "10.88.0.0/20", false},
		{"10.88.0.0/12", "10.88.0.0/20", false},
		{"10.88.0.0/13", "10.88.0.0/20", true},
		{"10.0.0.0/8", "10.88.0.0/13", false},
	} {
		base := s.DeepCopy()
		s.Status.Network.CIDR = step.inUse
		if err := cluster.client.Status().Patch(t.Context(), s, client.MergeFrom(base)); err != nil {
			t.Fatal(err)
		}
		from := s.Spec.Network.CIDR
		if err := set(step.cidr); (err == nil) != step.accepted {
			t.Errorf("from %s to %s while %q is in use: got error %v, want it accepted: %t", from, step.cidr, step.inUse, err, step.accepted)
		}
	}
}

// A network is widened while its machines run: the server and DHCP follow at once, targets
// get addresses of the new part, no machine is restarted, and what is installed reports
// that it has the former prefix.
func TestNetworkIsWidened(t *testing.T) {
	l := newLab(t)
	server := newServer("lab")
	server.Spec.Network.CIDR = "10.88.0.0/24"
	l.create(server, newProfile("debian"))
	l.waitReadyServer("lab")
	l.create(newTarget("installed"), newTarget("booting"))
	installed := l.becomesReady("installed")
	l.waitCondition(installed, v1alpha1.ConditionUpToDate, metav1.ConditionTrue, v1alpha1.ReasonUpToDate, "")
	booting := l.waitPhase("booting", v1alpha1.TargetPXE)
	far := newTarget("far")
	far.Spec.Machine.NICs[0].Addresses = []v1alpha1.IPv4{"10.88.5.5"}
	l.create(far)
	l.waitCondition(far, v1alpha1.ConditionValid, metav1.ConditionFalse, v1alpha1.ReasonAddressOutside, "10.88.5.5 is outside the lab network 10.88.0.0/24")

	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) { s.Spec.Network.CIDR = "10.88.0.0/20" })
	l.eventually(func() string {
		config, _ := l.netbootd("lab").Server()
		s := l.server("lab")
		if config.Network.Address.String() != "10.88.0.1/20" || config.Network.RangeStart.String() != "10.88.12.0" ||
			s.Status.Network.CIDR != "10.88.0.0/20" || s.Status.Phase != v1alpha1.ServerReady {
			return fmt.Sprintf("netbootd has %+v, the server is %s on %q", config.Network, s.Status.Phase, s.Status.Network.CIDR)
		}
		return ""
	})
	if got := l.waitPhase("far", v1alpha1.TargetPXE).BootNICStatus().Address(); got != "10.88.5.5" {
		t.Errorf("target in the new part: got address %s, want 10.88.5.5", got)
	}
	l.waitCondition(installed, v1alpha1.ConditionUpToDate, metav1.ConditionFalse, v1alpha1.ReasonReinstallNeeded,
		"the lab network is now 10.88.0.0/20 and the disk was installed for 10.88.0.0/24")
	l.waitCondition(l.server("lab"), v1alpha1.ConditionUpToDate, metav1.ConditionTrue, v1alpha1.ReasonUpToDate, "")
	for _, o := range []client.Object{server, installed, booting, far} {
		l.checkStarts(o, 1)
	}
	l.waitPhase("installed", v1alpha1.TargetReady)

	// What is installed after that has the new prefix, also after another restart of the
	// manager.
	l.restart()
	l.waitCondition(l.becomesReady("booting"), v1alpha1.ConditionUpToDate, metav1.ConditionTrue, v1alpha1.ReasonUpToDate, "")
	l.waitCondition(installed, v1alpha1.ConditionUpToDate, metav1.ConditionFalse, v1alpha1.ReasonReinstallNeeded, "")
	update(l, l.target("installed"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.InstallGeneration = 2 })
	l.waitTarget("installed", "installed again", func(bmt *v1alpha1.BareMetalTarget) bool { return bmt.Status.DiskGeneration == 2 })
	l.waitCondition(l.becomesReady("installed"), v1alpha1.ConditionUpToDate, metav1.ConditionTrue, v1alpha1.ReasonUpToDate, "")
}

// A network is not widened into that of another lab, although that one is younger: both
// keep what they have, and the edit can be undone.
func TestNetworkIsNotWidenedIntoAnother(t *testing.T) {
	l := newLab(t)
	first, second := newServer("lab"), newServer("second")
	first.Spec.Network.CIDR, second.Spec.Network.CIDR = "10.88.0.0/24", "10.88.8.0/24"
	// Networks of mode Userspace are separate.
	first.Spec.Network.Mode, second.Spec.Network.Mode = v1alpha1.NetworkVMNetShared, v1alpha1.NetworkVMNetShared
	l.create(first, newProfile("debian"))
	l.waitReadyServer("lab")
	l.create(second)
	l.waitReadyServer("second")
	puts := l.netbootd("lab").ServerPuts()

	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) { s.Spec.Network.CIDR = "10.88.0.0/20" })
	l.waitCondition(l.server("lab"), v1alpha1.ConditionValid, metav1.ConditionFalse, v1alpha1.ReasonAddressConflict,
		"overlaps the network of server "+l.ns+"/second")
	l.reconciled(second)
	l.waitCondition(l.server("second"), v1alpha1.ConditionValid, metav1.ConditionTrue, v1alpha1.ReasonValid, "")
	if got := l.server("lab").Status.Network.CIDR; got != "10.88.0.0/24" {
		t.Errorf("got network %s in use, want 10.88.0.0/24", got)
	}
	if got := l.netbootd("lab").ServerPuts(); got != puts {
		t.Errorf("got %d configurations put, want %d as before", got, puts)
	}
	l.create(newTarget("target"))
	l.waitTarget("target", "an address", func(bmt *v1alpha1.BareMetalTarget) bool { return bmt.BootNICStatus().Address() == "10.88.0.10" })

	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) { s.Spec.Network.CIDR = "10.88.0.0/24" })
	l.waitCondition(l.server("lab"), v1alpha1.ConditionValid, metav1.ConditionTrue, v1alpha1.ReasonValid, "")
	l.waitReadyServer("lab")
	l.waitPhase("target", v1alpha1.TargetPXE)
	l.checkStarts(first, 1)
	l.checkStarts(second, 1)
}

// The switch knows the addresses of the machines: an ARP request for a target reaches its
// machine and no other.
func TestSwitchKnowsAddresses(t *testing.T) {
	l := up(t)
	l.create(newTarget("asks"), newTarget("answers"), newTarget("hears"))
	ports := map[string]*net.UnixConn{}
	macs := map[string]net.HardwareAddr{}
	for _, name := range []string{"asks", "answers", "hears"} {
		target := l.waitPhase(name, v1alpha1.TargetPXE)
		dir := filepath.Join(l.runtime, strings.ReplaceAll(string(target.UID), "-", "")[:12])
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "net"), Net: "unixgram"})
		l.must(err)
		defer conn.Close()
		ports[name] = conn
		macs[name], err = net.ParseMAC(target.BootNICStatus().MAC)
		l.must(err)
	}
	request := func(name string) []byte {
		address := net.ParseIP(l.target(name).BootNICStatus().Address()).To4()
		frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, macs["asks"]...)
		frame = append(frame, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
		frame = append(append(frame, macs["asks"]...), 0, 0, 0, 0)
		return append(append(frame, 0, 0, 0, 0, 0, 0), address...)
	}
	receives := func(name string) string {
		l.must(ports[name].SetReadDeadline(time.Now().Add(limit)))
		buf := make([]byte, 2048)
		n, err := ports[name].Read(buf)
		l.must(err)
		return string(buf[:n])
	}
	dir := filepath.Join(l.runtime, strings.ReplaceAll(string(l.target("asks").UID), "-", "")[:12])
	to := &net.UnixAddr{Name: filepath.Join(dir, "sw"), Net: "unixgram"}
	for _, name := range []string{"answers", "hears"} {
		_, err := ports["asks"].WriteToUnix(request(name), to)
		l.must(err)
	}
	for _, name := range []string{"answers", "hears"} {
		if got := receives(name); got != string(request(name)) {
			t.Errorf("%s: got frame %x, want the request for its address only", name, got)
		}
	}
}
