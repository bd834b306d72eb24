// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/dhcp"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
	"github.com/pxelab/pxelab/internal/netbootd/internal/tftp"
)

func TestProgressNeverGoesBack(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	s := netbootapi.MachineState{Attempt: "1", ProfileDigest: "p", ImageAt: at(1)}
	saw := func(stage installerapi.Stage, now int64, message string) {
		t.Helper()
		p := installerapi.Progress{Attempt: "1", Stage: stage, BytesWritten: now, BytesTotal: 4, Message: message}
		if err := sawProgress(&s, p, at(now)); err != nil {
			t.Fatal(err)
		}
	}
	saw(installerapi.StageStart, 1, "")
	saw(installerapi.StageFailed, 2, "disk is too small")
	if got := s.Install.Error; got != "disk is too small" {
		t.Errorf("after a failure: got error %q, want \"disk is too small\"", got)
	}
	if len(s.Warnings) != 1 {
		t.Errorf("after a failure: got warnings %+v, want 1", s.Warnings)
	}
	saw(installerapi.StageStart, 3, "")
	if got := s.Install.Error; got != "" {
		t.Errorf("after a retry: got error %q, want none", got)
	}
	if got := s.Install.StartedAt; !got.Equal(at(1)) {
		t.Errorf("after a retry: got start at %s, want the first start, %s", got, at(1))
	}
	saw(installerapi.StageDone, 4, "")
	want := *s.Install
	saw(installerapi.StageDone, 5, "")
	saw(installerapi.StageWrite, 6, "")
	saw(installerapi.StageFailed, 7, "late")
	if diff := cmp.Diff(want, *s.Install); diff != "" {
		t.Errorf("late reports changed the state (-want +got):\n%s", diff)
	}
	err := sawProgress(&s, installerapi.Progress{Attempt: "0", Stage: installerapi.StageWrite}, at(8))
	if !errors.Is(err, errOldAttempt) {
		t.Errorf("report of another attempt: got error %v, want %v", err, errOldAttempt)
	}
}

func machineAt(attempt, powerOn string) netbootapi.Machine {
	return netbootapi.Machine{Control: netbootapi.Control{Attempt: attempt, PowerOn: powerOn}}
}

func TestNewEntryKeepsOrClearsState(t *testing.T) {
	up := netbootapi.SSHState{PowerOn: "p1", Up: true}
	old := netbootapi.MachineState{Attempt: "1", ScriptAt: time.Unix(1, 0), SSH: up}
	for name, c := range map[string]struct {
		machine netbootapi.Machine
		want    netbootapi.MachineState
	}{
		"same": {machineAt("1", "p1"), old},
		"another power-on": {
			machineAt("1", "p2"),
			netbootapi.MachineState{Attempt: "1", ScriptAt: time.Unix(1, 0), SSH: netbootapi.SSHState{PowerOn: "p2"}},
		},
		"off": {machineAt("1", ""), netbootapi.MachineState{Attempt: "1"}},
		"another attempt": {
			machineAt("2", "p1"),
			netbootapi.MachineState{Attempt: "2", SSH: netbootapi.SSHState{PowerOn: "p1"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, registry.Carry(old, &c.machine)); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInterruptedInstallationStartsOver(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	half := netbootapi.MachineState{
		Attempt: "1", DiscoverAt: at(1), RequestAt: at(2), ProgramAt: at(3), ScriptAt: at(4), KernelAt: at(5), InitrdAt: at(6),
		Install: &netbootapi.InstallState{UpdatedAt: at(7), BytesWritten: 5, BytesTotal: 9}, SSH: netbootapi.SSHState{PowerOn: "p1"},
		Warnings: []netbootapi.Warning{{Reason: "R"}},
	}
	discover := dhcp.Event{Kind: dhcp.Offer, Stage: dhcp.Firmware, At: at(20)}
	machine := new(machineAt("1", "p2"))

	restarted := registry.Carry(half, machine)
	want := netbootapi.MachineState{Attempt: "1", SSH: netbootapi.SSHState{PowerOn: "p2"}, Warnings: half.Warnings}
	if diff := cmp.Diff(want, restarted); diff != "" {
		t.Errorf("another power-on (-want +got):\n%s", diff)
	}
	seen := half
	sawDHCP(&seen, discover, policy.Decision{Action: policy.ActionInstall})
	want = netbootapi.MachineState{Attempt: "1", DiscoverAt: at(20), SSH: netbootapi.SSHState{PowerOn: "p1"}, Warnings: half.Warnings}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("DISCOVER from firmware (-want +got):\n%s", diff)
	}
	// The new power-on may be pushed after its first packet.
	seen = registry.Carry(seen, machine)
	if got := seen.DiscoverAt; !got.Equal(at(20)) {
		t.Errorf("another power-on after its DISCOVER: got DISCOVER at %s, want %s", got, at(20))
	}

	off := registry.Carry(half, new(machineAt("1", "")))
	want = netbootapi.MachineState{Attempt: "1", Warnings: half.Warnings}
	if diff := cmp.Diff(want, off); diff != "" {
		t.Errorf("power-off (-want +got):\n%s", diff)
	}

	// A power-on that is pushed late, after the installer of its boot has begun.
	running := half
	running.ProfileDigest = "p"
	running.Install = &netbootapi.InstallState{StartedAt: at(100)}
	for powerOn, kept := range map[int64]bool{90: true, 100: true, 104: true, 106: false, 1000: false} {
		next := machineAt("1", at(powerOn).UTC().Format(time.RFC3339Nano))
		if got := registry.Carry(running, &next); (got.ProfileDigest != "") != kept || (got.Install != nil) != kept {
			t.Errorf("power-on at %d, installer at 100: got state %+v, want it kept: %v", powerOn, got, kept)
		}
	}

	for name, end := range map[string]netbootapi.InstallState{
		"done":   {UpdatedAt: at(8), DoneAt: at(8)},
		"failed": {UpdatedAt: at(8), Error: "no room"},
	} {
		ended := half
		ended.Install = &end
		again := registry.Carry(ended, machine)
		sawDHCP(&again, discover, policy.Decision{Action: policy.ActionInstall})
		ended.SSH.PowerOn = "p2"
		if diff := cmp.Diff(ended, again); diff != "" {
			t.Errorf("%s: the ended installation changed (-want +got):\n%s", name, diff)
		}
	}
}

func TestSSHProbesOfAnotherPowerOnAreIgnored(t *testing.T) {
	s := netbootapi.MachineState{SSH: netbootapi.SSHState{PowerOn: "p2"}}
	check := func(what string, got, news, up bool, since time.Time) {
		t.Helper()
		if got != news {
			t.Errorf("%s: got news %t, want %t", what, got, news)
		}
		if s.SSH.Up != up {
			t.Errorf("%s: got up %t, want %t: %+v", what, s.SSH.Up, up, s.SSH)
		}
		if !s.SSH.UpSince.Equal(since) {
			t.Errorf("%s: got up since %s, want %s", what, s.SSH.UpSince, since)
		}
	}
	second := time.Unix(2, 0)
	check("another power-on", sawSSH(&s, "p1", time.Unix(1, 0), ""), false, false, time.Time{})
	check("success", sawSSH(&s, "p2", second, ""), true, true, second)
	check("the same result", sawSSH(&s, "p2", time.Unix(3, 0), ""), false, true, second)
	check("failure", sawSSH(&s, "p2", time.Unix(4, 0), "refused"), true, false, time.Time{})
}

func TestWarningsAreBounded(t *testing.T) {
	var s netbootapi.MachineState
	for i := range 100 {
		warn(&s, time.Unix(int64(i), 0), "R", "%d %s", i/2, strings.Repeat("x", 10*maxText))
	}
	if len(s.Warnings) != maxWarnings {
		t.Fatalf("got %d warnings, want %d", len(s.Warnings), maxWarnings)
	}
	last := s.Warnings[9]
	if want := time.Unix(99, 0); !last.At.Equal(want) {
		t.Errorf("last warning: got time %s, want %s", last.At, want)
	}
	if n := len(last.Message); n > maxText+10 {
		t.Errorf("last warning: got %d bytes of text, want at most %d", n, maxText+10)
	}
}

func TestOnlyFirmwareSetsBootTimes(t *testing.T) {
	var s netbootapi.MachineState
	event := dhcp.Event{Kind: dhcp.Ack, Stage: dhcp.OS, At: time.Unix(1, 0), Address: netip.MustParseAddr("10.0.0.2")}
	sawDHCP(&s, event, policy.Decision{Action: policy.ActionInstall})
	event.Stage = dhcp.IPXE
	sawDHCP(&s, event, policy.Decision{Action: policy.ActionInstall})
	check := func(what string, got, want time.Time) {
		t.Helper()
		if !got.Equal(want) {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	check("DISCOVER of the OS and iPXE", s.DiscoverAt, time.Time{})
	check("REQUEST of the OS and iPXE", s.RequestAt, time.Time{})
	event.Stage = dhcp.Firmware
	sawDHCP(&s, event, policy.Decision{Action: policy.ActionInstall})
	event.At = time.Unix(2, 0)
	sawDHCP(&s, event, policy.Decision{Action: policy.ActionInstall})
	check("DISCOVER of the firmware", s.DiscoverAt, time.Unix(1, 0))
	check("REQUEST of the firmware", s.RequestAt, time.Unix(1, 0))
	if len(s.Warnings) != 0 {
		t.Errorf("after DHCP: got warnings %+v, want none", s.Warnings)
	}
	sawTFTP(&s, tftp.Event{Kind: tftp.Probe}, time.Unix(3, 0))
	sawTFTP(&s, tftp.Event{Kind: tftp.Abort, Err: "timeout"}, time.Unix(3, 0))
	sawTFTP(&s, tftp.Event{Kind: tftp.Done}, time.Unix(4, 0))
	check("program", s.ProgramAt, time.Unix(4, 0))
	if len(s.Warnings) != 1 {
		t.Errorf("after an aborted transfer: got warnings %+v, want 1", s.Warnings)
	}
}

// TestLargestStateIsDelivered lets a guest send the longest texts, of characters
// that JSON escapes, in everything it can report.
func TestLargestStateIsDelivered(t *testing.T) {
	for name, text := range map[string]string{
		"plain": strings.Repeat("x", 64<<10), "control characters": strings.Repeat("\x01", 64<<10),
		"invalid UTF-8": strings.Repeat("\xff", 64<<10), "quotes": strings.Repeat(`"\`, 64<<10), "wide": strings.Repeat("\U0001F600", 64<<10),
		"HTML": strings.Repeat("<&>", 64<<10), "separators": strings.Repeat("\u2028", 64<<10),
	} {
		t.Run(name, func(t *testing.T) {
			id := strings.Repeat("<", netbootapi.MaxIDBytes)
			m := &netbootapi.Machine{
				UID:     strings.Repeat("u", 128),
				Control: netbootapi.Control{Attempt: id, PowerOn: id, InstanceID: id, Boot: netbootapi.BootDisk},
			}
			now := time.Unix(1<<31, 123456789).UTC()
			s := registry.Carry(netbootapi.MachineState{}, m)
			s.DiscoverAt, s.RequestAt, s.ProgramAt, s.ScriptAt, s.KernelAt, s.InitrdAt = now, now, now, now, now, now
			s.ImageAt = now
			s.DiskBootAt, s.CloudInitAt, s.ProfileDigest = now, now, id
			for i := range 2 * maxWarnings {
				warn(&s, now, "SomeLongReasonOfAWarning", "%d %s", i, text)
			}
			failed := installerapi.Progress{
				Attempt: id, Stage: installerapi.StageFailed, Message: text, BytesWritten: 1 << 60, BytesTotal: 1 << 60,
			}
			if err := sawProgress(&s, failed, now); err != nil {
				t.Fatal(err)
			}
			for i := range 2 * maxFailures {
				name := strings.Repeat("s", 64) + "/" + strings.Repeat("m", 120) + strconv.Itoa(i)
				sawCloudInit(&s, m, cloudInitEvent{Name: name, Type: "finish", Result: "FAIL", Description: text}, now)
			}
			key := strings.Repeat("A", maxHostKey)
			home := netbootapi.PhoneHome{At: now, InstanceID: id, Hostname: clip(text), HostKeys: []string{key, key, key}}
			if err := sawPhoneHome(&s, m, home); err != nil {
				t.Fatal(err)
			}
			sawSSH(&s, id, now, clip(text))
			if len(s.Warnings) != maxWarnings || len(s.CloudInit.Failures) != maxFailures {
				t.Fatalf("got %d warnings and %d failures, want %d and %d", len(s.Warnings), len(s.CloudInit.Failures), maxWarnings, maxFailures)
			}
			s.Content, s.Control, s.Installing, s.Problem = netbootapi.Digest(nil), netbootapi.Digest(nil), true, clip(text)
			for range 8 {
				s.MissingBlobs = append(s.MissingBlobs, netbootapi.Blob{Digest: "hmac-sha256:" + strings.Repeat("f", 64), Size: 1 << 60})
			}
			update := netbootapi.Update{Machines: map[string]*netbootapi.MachineState{m.UID: &s}}
			if tooLarge, err := netbootapi.WriteUpdate(io.Discard, update); err != nil || len(tooLarge) != 0 {
				t.Errorf("got %d machines left out, error %v; want none", len(tooLarge), err)
			}
		})
	}
}

func TestLargestServerStateIsDelivered(t *testing.T) {
	text := clip(strings.Repeat("\x01", 64<<10))
	now := time.Unix(1<<31, 123456789).UTC()
	state := netbootapi.State{
		Version: text, StartedAt: now, Server: text, Credentials: text,
		Services: map[string]netbootapi.Service{}, Refused: map[string]int64{},
	}
	for i := range 100 {
		state.Services[strconv.Itoa(i)] = netbootapi.Service{Address: text, Error: text}
		state.Refused[fmt.Sprintf("SomeLongReasonOfARefusal%d", i)] = 1 << 60
	}
	for range 2 {
		state.MissingBlobs = append(state.MissingBlobs, netbootapi.Blob{Digest: "sha256:" + strings.Repeat("f", 64), Size: 1 << 60})
	}
	address := netip.MustParseAddr("255.255.255.255")
	for range maxLeases {
		state.Leases = append(state.Leases, netbootapi.Lease{
			MAC: "ff:ff:ff:ff:ff:ff", Address: address, Hostname: strings.Repeat("h", 253), Expires: now, Reserved: true})
	}
	for range maxUnknown {
		state.Unknown = append(state.Unknown, netbootapi.UnknownClient{
			MAC: "ff:ff:ff:ff:ff:ff", Address: address, Architecture: text, FirstSeen: now, LastSeen: now})
	}
	if _, err := netbootapi.WriteUpdate(io.Discard, netbootapi.Update{Server: &state}); err != nil {
		t.Error(err)
	}
}

func TestClip(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		runes int // of the text that are kept
	}{
		"short":   {"a text", 6},
		"exact":   {strings.Repeat("x", maxText), maxText},
		"long":    {strings.Repeat("x", maxText+1), maxText},
		"escaped": {strings.Repeat("\x00", maxText), maxText / 6},
		"wide":    {strings.Repeat("ä", maxText), maxText / 2},
	} {
		t.Run(name, func(t *testing.T) {
			want := string([]rune(c.text)[:c.runes])
			if want != c.text {
				want += "…"
			}
			if got := clip(c.text); got != want {
				t.Errorf("got %d bytes, want %d", len(got), len(want))
			}
		})
	}
}
