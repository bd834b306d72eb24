// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/dhcp"
	"github.com/pxelab/pxelab/internal/install"
	"github.com/pxelab/pxelab/internal/tftp"
)

func digest(c byte) string { return "sha256:" + strings.Repeat(string(c), 64) }

func policyConfig(boot agent.Boot) *agent.Config {
	blob := func(c byte) agent.Blob { return agent.Blob{Digest: digest(c), Size: 1} }
	return &agent.Config{
		Programs: []agent.Program{{Architecture: "x86_64", Name: "ipxe.efi", Blob: blob('0')}},
		Machines: []agent.Machine{{
			UID: "u", Name: "a", Architecture: "x86_64", Boot: boot, Attempt: "1", InstanceID: "i1",
			Kernel: blob('1'), Initrd: blob('2'), Overlay: blob('3'), Image: blob('4'),
		}},
	}
}

func TestDecide(t *testing.T) {
	done := agent.MachineState{Attempt: "1", Install: &agent.InstallState{DoneAt: time.Unix(1, 0)}}
	all := "01234"
	for name, c := range map[string]struct {
		boot   agent.Boot
		state  agent.MachineState
		have   string
		arch   string
		asked  bool
		action Action
		reason string
	}{
		"installs":                    {boot: agent.BootInstall, have: all, action: ActionInstall, reason: ReasonInstall},
		"installs, architecture told": {boot: agent.BootInstall, have: all, arch: "x86_64", asked: true, action: ActionInstall, reason: ReasonInstall},
		"disk":                        {boot: agent.BootDisk, have: all, action: ActionDisk, reason: ReasonInstalled},
		"disk without files":          {boot: agent.BootDisk, have: "0", action: ActionDisk, reason: ReasonInstalled},
		"done":                        {boot: agent.BootInstall, state: done, have: all, action: ActionDisk, reason: ReasonInstalled},
		"done without files":          {boot: agent.BootInstall, state: done, have: "0", action: ActionDisk, reason: ReasonInstalled},
		"done in another attempt": {
			boot: agent.BootInstall, state: agent.MachineState{Attempt: "0", Install: done.Install}, have: all,
			action: ActionInstall, reason: ReasonInstall,
		},
		"not done":              {boot: agent.BootInstall, state: agent.MachineState{Attempt: "1", Install: &agent.InstallState{Error: "x"}}, have: all, action: ActionInstall, reason: ReasonInstall},
		"image missing":         {boot: agent.BootInstall, have: "0123", action: ActionWait, reason: ReasonMissingBlobs},
		"program missing":       {boot: agent.BootInstall, have: "1234", action: ActionNone, reason: ReasonNoProgram},
		"program missing, disk": {boot: agent.BootDisk, have: "", action: ActionNone, reason: ReasonNoProgram},
		"none":                  {boot: agent.BootNone, have: all, action: ActionNone, reason: ReasonSwitchedOff},
		"other architecture":    {boot: agent.BootInstall, have: all, arch: "aarch64", asked: true, action: ActionNone, reason: ReasonArchitecture},
		"BIOS":                  {boot: agent.BootDisk, have: all, arch: "", asked: true, action: ActionNone, reason: ReasonArchitecture},
	} {
		t.Run(name, func(t *testing.T) {
			config := policyConfig(c.boot)
			have := func(d string) bool { return strings.Contains(c.have, d[7:8]) }
			d := Decide(config, c.state, have, Asker{Machine: &config.Machines[0], Architecture: c.arch, Says: c.asked})
			if d.Action != c.action || d.Reason != c.reason || d.Message == "" {
				t.Errorf("got %s, %s, %q", d.Action, d.Reason, d.Message)
			}
			if (d.Program != nil) != (d.Action != ActionNone) || (d.Machine != nil) != (d.Action != ActionNone) {
				t.Errorf("machine and program: %v, %v", d.Machine, d.Program)
			}
		})
	}
	for _, config := range []*agent.Config{nil, policyConfig(agent.BootInstall)} {
		if d := Decide(config, agent.MachineState{}, func(string) bool { return true }, Asker{}); d.Action != ActionNone || d.Reason != ReasonUnknown {
			t.Errorf("an unknown client: %+v", d)
		}
	}
}

func TestProgressNeverGoesBack(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	s := agent.MachineState{Attempt: "1"}
	saw := func(stage install.Stage, now int64, message string) {
		t.Helper()
		if err := sawProgress(&s, install.Progress{Attempt: "1", Stage: stage, BytesWritten: now, BytesTotal: 9, Message: message}, at(now)); err != nil {
			t.Fatal(err)
		}
	}
	saw(install.StageStart, 1, "")
	saw(install.StageFailed, 2, "disk is too small")
	if s.Install.Error != "disk is too small" || len(s.Warnings) != 1 {
		t.Errorf("%+v", s)
	}
	saw(install.StageStart, 3, "")
	if s.Install.Error != "" || !s.Install.StartedAt.Equal(at(1)) {
		t.Errorf("the next try: %+v", s.Install)
	}
	saw(install.StageDone, 4, "")
	want := *s.Install
	saw(install.StageDone, 5, "")
	saw(install.StageWrite, 6, "")
	saw(install.StageFailed, 7, "late")
	if diff := cmp.Diff(want, *s.Install); diff != "" {
		t.Errorf("late reports took effect:\n%s", diff)
	}
	err := sawProgress(&s, install.Progress{Attempt: "0", Stage: install.StageWrite}, at(8))
	if !errors.Is(err, errOldAttempt) {
		t.Errorf("another attempt: %v", err)
	}
}

func TestForConfig(t *testing.T) {
	up := agent.SSHState{PowerOn: "p1", Up: true}
	old := agent.MachineState{Attempt: "1", ScriptAt: time.Unix(1, 0), SSH: up}
	for name, c := range map[string]struct {
		machine agent.Machine
		want    agent.MachineState
	}{
		"same":             {agent.Machine{Attempt: "1", PowerOn: "p1"}, old},
		"another power-on": {agent.Machine{Attempt: "1", PowerOn: "p2"}, agent.MachineState{Attempt: "1", ScriptAt: time.Unix(1, 0), SSH: agent.SSHState{PowerOn: "p2"}}},
		"off":              {agent.Machine{Attempt: "1"}, agent.MachineState{Attempt: "1"}},
		"another attempt":  {agent.Machine{Attempt: "2", PowerOn: "p1"}, agent.MachineState{Attempt: "2", SSH: agent.SSHState{PowerOn: "p1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, forConfig(old, &c.machine)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestInstallationCutOffStartsOver(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	half := agent.MachineState{
		Attempt: "1", DiscoverAt: at(1), RequestAt: at(2), ProgramAt: at(3), ScriptAt: at(4), KernelAt: at(5), InitrdAt: at(6),
		Install: &agent.InstallState{UpdatedAt: at(7), BytesWritten: 5, BytesTotal: 9}, SSH: agent.SSHState{PowerOn: "p1"},
		Warnings: []agent.Warning{{Reason: "R"}},
	}
	discover := dhcp.Event{Kind: dhcp.Offer, Stage: dhcp.Firmware, At: at(20)}
	machine := &agent.Machine{Attempt: "1", PowerOn: "p2"}

	told := forConfig(half, machine)
	want := agent.MachineState{Attempt: "1", SSH: agent.SSHState{PowerOn: "p2"}, Warnings: half.Warnings}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("another power-on:\n%s", diff)
	}
	seen := half
	sawDHCP(&seen, discover, Decision{Action: ActionInstall})
	want = agent.MachineState{Attempt: "1", DiscoverAt: at(20), SSH: agent.SSHState{PowerOn: "p1"}, Warnings: half.Warnings}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("the firmware asks again:\n%s", diff)
	}
	// The word of the new power-on may come after its first packet.
	seen = forConfig(seen, machine)
	if !seen.DiscoverAt.Equal(at(20)) {
		t.Errorf("the new boot's DISCOVER was forgotten: %+v", seen)
	}

	off := forConfig(half, &agent.Machine{Attempt: "1"})
	want = agent.MachineState{Attempt: "1", Warnings: half.Warnings}
	if diff := cmp.Diff(want, off); diff != "" {
		t.Errorf("off:\n%s", diff)
	}

	for name, end := range map[string]agent.InstallState{
		"done":   {UpdatedAt: at(8), DoneAt: at(8)},
		"failed": {UpdatedAt: at(8), Error: "no room"},
	} {
		ended := half
		ended.Install = &end
		again := forConfig(ended, machine)
		sawDHCP(&again, discover, Decision{Action: ActionInstall})
		ended.SSH.PowerOn = "p2"
		if diff := cmp.Diff(ended, again); diff != "" {
			t.Errorf("%s: was not kept:\n%s", name, diff)
		}
	}
}

func TestSSHAnswersOfAnotherPowerOnDoNotCount(t *testing.T) {
	s := agent.MachineState{SSH: agent.SSHState{PowerOn: "p2"}}
	if sawSSH(&s, "p1", time.Unix(1, 0), "") || s.SSH.Up {
		t.Errorf("%+v", s.SSH)
	}
	if !sawSSH(&s, "p2", time.Unix(2, 0), "") || !s.SSH.Up || !s.SSH.UpSince.Equal(time.Unix(2, 0)) {
		t.Errorf("%+v", s.SSH)
	}
	if sawSSH(&s, "p2", time.Unix(3, 0), "") || !s.SSH.UpSince.Equal(time.Unix(2, 0)) {
		t.Errorf("the same answer was news, or its time is lost: %+v", s.SSH)
	}
	if !sawSSH(&s, "p2", time.Unix(4, 0), "refused") || s.SSH.Up || !s.SSH.UpSince.IsZero() {
		t.Errorf("%+v", s.SSH)
	}
}

func TestWarningsAreBounded(t *testing.T) {
	var s agent.MachineState
	for i := range 100 {
		warn(&s, time.Unix(int64(i), 0), "R", "%d %s", i/2, strings.Repeat("x", 10*maxText))
	}
	if len(s.Warnings) != maxWarnings || !s.Warnings[9].At.Equal(time.Unix(99, 0)) || len(s.Warnings[9].Message) > maxText+10 {
		t.Errorf("%d warnings", len(s.Warnings))
	}
}

func TestOnlyFirmwareMovesTheTimeline(t *testing.T) {
	var s agent.MachineState
	event := dhcp.Event{Kind: dhcp.Ack, Stage: dhcp.OS, At: time.Unix(1, 0), Address: netip.MustParseAddr("10.0.0.2")}
	sawDHCP(&s, event, Decision{Action: ActionInstall})
	event.Stage = dhcp.IPXE
	sawDHCP(&s, event, Decision{Action: ActionInstall})
	if !s.DiscoverAt.IsZero() || !s.RequestAt.IsZero() {
		t.Errorf("%+v", s)
	}
	event.Stage = dhcp.Firmware
	sawDHCP(&s, event, Decision{Action: ActionInstall})
	event.At = time.Unix(2, 0)
	sawDHCP(&s, event, Decision{Action: ActionInstall})
	if !s.DiscoverAt.Equal(time.Unix(1, 0)) || !s.RequestAt.Equal(time.Unix(1, 0)) || len(s.Warnings) != 0 {
		t.Errorf("%+v", s)
	}
	sawTFTP(&s, tftp.Event{Kind: tftp.Probe}, time.Unix(3, 0))
	sawTFTP(&s, tftp.Event{Kind: tftp.Abort, Err: "timeout"}, time.Unix(3, 0))
	sawTFTP(&s, tftp.Event{Kind: tftp.Done}, time.Unix(4, 0))
	if !s.ProgramAt.Equal(time.Unix(4, 0)) || len(s.Warnings) != 1 {
		t.Errorf("%+v", s)
	}
}

func TestHostKeys(t *testing.T) {
	const good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqyzpVSCXwRMfPEgEhTDpBzvjn8fdVnPBpBLCXsVDHq"
	for name, c := range map[string]struct{ text, want string }{
		"with comment":    {good + " root@host\n", good},
		"absent":          {"N/A", ""},
		"another type":    {"ssh-rsa " + strings.Fields(good)[1], ""},
		"no base64":       {"ssh-rsa ***", ""},
		"length too long": {"ssh-rsa AAAAAA==", ""},
		"huge":            {"ssh-ed25519 " + strings.Repeat("A", maxHostKey), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := publicKey(c.text); got != c.want {
				t.Errorf("got %q", got)
			}
		})
	}
}
