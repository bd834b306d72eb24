// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

func TestImpairmentIsShownAndTakenBack(t *testing.T) {
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
	if !l.state(s).StartedAt.Equal(started) {
		t.Error("the machine was started again")
	}
}

// A guest that plays the DHCP server, or another guest, is named.
func TestMisbehavingGuestsAreNamed(t *testing.T) {
	l := up(t)
	l.create(newTarget("target"))
	target := l.waitPhase("target", v1alpha1.TargetPXE)
	dir := filepath.Join(l.runtime, strings.ReplaceAll(string(target.UID), "-", "")[:12])
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: filepath.Join(dir, "sw"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	forged := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x88, 0xb5}, make([]byte, 46)...)
	for range 3 {
		if _, err := conn.Write(forged); err != nil {
			t.Fatal(err)
		}
	}
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) {
		s.Spec.SSHAuthorizedKeys = []string{"ssh-ed25519 AAAA look again"}
	})
	l.eventually(func() string {
		frames := l.server("lab").Status.Network.RefusedFrames
		if len(frames) != 1 || frames[0].Target != "target" || frames[0].ForeignMAC == 0 {
			return "the target is not named"
		}
		return ""
	})
	l.waitEvents(l.server("lab"), v1alpha1.ReasonFramesRefused)
}
