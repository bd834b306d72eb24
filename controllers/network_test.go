// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

func TestServerReportsImpairment(t *testing.T) {
	l := up(t)
	s := l.waitReadyServer("lab")
	shown := func(want string) {
		t.Helper()
		l.eventually(func() string {
			if got := l.server("lab").Status.Network.Impairment; got != want {
				return "impairment is " + got
			}
			return ""
		})
	}
	shown("")
	loss := intstr.FromString("2.5")
	update(l, s, func(s *v1alpha1.ProvisioningServer) {
		s.Spec.Network.Impairment = &v1alpha1.Impairment{LossPercent: &loss, Delay: &metav1.Duration{Duration: 100 * time.Millisecond}}
	})
	shown("2.5 % loss, 100ms delay in each direction")
	started := l.state(s).StartedAt
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) { s.Spec.Network.Impairment = nil })
	shown("")
	if got := l.state(s).StartedAt; !got.Equal(started) {
		t.Errorf("after a change of the impairment: got a machine started at %s, want the one of %s", got, started)
	}
}

// A guest that plays the DHCP server, or another guest, is named.
func TestServerReportsRefusedFrames(t *testing.T) {
	l := up(t)
	l.create(newTarget("target"))
	target := l.waitPhase("target", v1alpha1.TargetPXE)
	dir := filepath.Join(l.runtime, strings.ReplaceAll(string(target.UID), "-", "")[:12])
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: filepath.Join(dir, "sw"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	own, err := net.ParseMAC(target.BootNICStatus().MAC)
	if err != nil {
		t.Fatal(err)
	}
	foreign := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x88, 0xb5}, make([]byte, 46)...)
	for _, frame := range [][]byte{foreign, dhcpAnswer(own), foreign, dhcpAnswer(own)} {
		if _, err := conn.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) {
		s.Spec.SSHAuthorizedKeys = []string{"ssh-ed25519 AAAA look again"}
	})
	l.eventually(func() string {
		frames := l.server("lab").Status.Network.RefusedFrames
		if len(frames) != 1 || frames[0].Target != "target" || frames[0].ForeignMAC == 0 || frames[0].DHCPServer == 0 {
			return fmt.Sprintf("the target is not named with both: %+v", frames)
		}
		return ""
	})
	for _, did := range []string{"sent frames from a MAC address that is not its own", "sent DHCP replies"} {
		l.eventually(func() string {
			list := &eventsv1.EventList{}
			l.must(l.client.List(l.ctx, list, client.InNamespace(l.ns)))
			if !slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
				return e.Regarding.Name == "lab" && e.Reason == v1alpha1.ReasonFramesRefused && strings.Contains(e.Note, "target target "+did)
			}) {
				return "no Event reports that the target " + did
			}
			return ""
		})
	}
}

// dhcpAnswer is a frame as a DHCP server sends it, from its port to a client's.
func dhcpAnswer(from net.HardwareAddr) []byte {
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, from...)
	frame = append(frame, 0x08, 0x00)
	frame = append(frame, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 88, 0, 10, 255, 255, 255, 255)
	return append(frame, 0, 67, 0, 68, 0, 8, 0, 0)
}

// A check that is switched off is so for targets that run, and none is by default.
func TestUncheckedFramesApplyLive(t *testing.T) {
	l := up(t)
	l.create(newTarget("target"))
	target := l.waitPhase("target", v1alpha1.TargetPXE)
	started := l.state(target).StartedAt
	dir := filepath.Join(l.runtime, strings.ReplaceAll(string(target.UID), "-", "")[:12])
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: filepath.Join(dir, "sw"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	own, err := net.ParseMAC(target.BootNICStatus().MAC)
	if err != nil {
		t.Fatal(err)
	}
	// A gratuitous ARP packet for an address that no machine has.
	announce := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, own...)
	announce = append(announce, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	announce = append(append(announce, own...), 10, 88, 0, 77)
	announce = append(announce, 0, 0, 0, 0, 0, 0, 10, 88, 0, 77)
	refused := func() uint64 {
		for _, o := range l.networks.Offenders(string(l.server("lab").UID)) {
			if o.Machine == string(target.UID) {
				return o.ForeignAddress
			}
		}
		return 0
	}
	// send sends the packet twice: the first was checked once the second is counted.
	send := func() uint64 {
		t.Helper()
		before := l.networks.Traffic()[string(l.server("lab").UID)].Frames
		for range 2 {
			if _, err := conn.Write(announce); err != nil {
				t.Fatal(err)
			}
		}
		l.eventually(func() string {
			if l.networks.Traffic()[string(l.server("lab").UID)].Frames < before+2 {
				return "the switch has not received the frames"
			}
			return ""
		})
		return refused()
	}
	if got := send(); got == 0 {
		t.Error("got no refused packet by default, want it refused")
	}
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) {
		s.Spec.Network.UncheckedFrames = []v1alpha1.FrameCheck{v1alpha1.CheckAddresses}
	})
	l.eventually(func() string {
		before := refused()
		if send() != before {
			return "the check is still made"
		}
		return ""
	})
	if got := l.state(target).StartedAt; !got.Equal(started) {
		t.Errorf("after the change: got a machine started at %s, want the one of %s", got, started)
	}
}
