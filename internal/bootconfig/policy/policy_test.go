// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

func policyConfig(boot netbootapi.Boot) (*netbootapi.ServerConfig, *netbootapi.Machine) {
	blob := func(c byte) netbootapi.Blob {
		return netbootapi.Blob{Digest: "sha256:" + strings.Repeat(string(c), 64), Size: 1}
	}
	config := &netbootapi.ServerConfig{
		Programs: []netbootapi.Program{{Architecture: "x86_64", Name: "ipxe.efi", Blob: blob('0')}},
	}
	machine := &netbootapi.Machine{
		UID: "u",
		Content: netbootapi.Content{
			Name: "a", Architecture: "x86_64",
			Kernel: blob('1'), Initrd: blob('2'), Overlay: blob('3'), Image: blob('4'),
		},
		Control: netbootapi.Control{Boot: boot, Attempt: "1", InstanceID: "i1"},
	}
	return config, machine
}

func TestDecide(t *testing.T) {
	done := netbootapi.MachineState{Attempt: "1", Install: &netbootapi.InstallState{DoneAt: time.Unix(1, 0)}}
	all := "01234"
	for name, c := range map[string]struct {
		boot   netbootapi.Boot
		state  netbootapi.MachineState
		have   string
		arch   string
		known  bool // ArchitectureKnown
		action Action
		reason string
	}{
		"installs": {boot: netbootapi.BootInstall, have: all, action: ActionInstall, reason: ReasonInstall},
		"installs, architecture known": {
			boot: netbootapi.BootInstall, have: all, arch: "x86_64", known: true,
			action: ActionInstall, reason: ReasonInstall,
		},
		"disk":               {boot: netbootapi.BootDisk, have: all, action: ActionDisk, reason: ReasonInstalled},
		"disk without files": {boot: netbootapi.BootDisk, have: "0", action: ActionDisk, reason: ReasonInstalled},
		"done":               {boot: netbootapi.BootInstall, state: done, have: all, action: ActionDisk, reason: ReasonInstalled},
		"done without files": {boot: netbootapi.BootInstall, state: done, have: "0", action: ActionDisk, reason: ReasonInstalled},
		"done in another attempt": {
			boot: netbootapi.BootInstall, state: netbootapi.MachineState{Attempt: "0", Install: done.Install}, have: all,
			action: ActionInstall, reason: ReasonInstall,
		},
		"not done": {
			boot: netbootapi.BootInstall, have: all,
			state:  netbootapi.MachineState{Attempt: "1", Install: &netbootapi.InstallState{Error: "x"}},
			action: ActionInstall, reason: ReasonInstall,
		},
		"image missing":         {boot: netbootapi.BootInstall, have: "0123", action: ActionWait, reason: ReasonMissingBlobs},
		"program missing":       {boot: netbootapi.BootInstall, have: "1234", action: ActionNone, reason: ReasonNoProgram},
		"program missing, disk": {boot: netbootapi.BootDisk, have: "", action: ActionNone, reason: ReasonNoProgram},
		"none":                  {boot: netbootapi.BootNone, have: all, action: ActionNone, reason: ReasonSwitchedOff},
		"other architecture": {
			boot: netbootapi.BootInstall, have: all, arch: "aarch64", known: true,
			action: ActionNone, reason: ReasonArchitecture,
		},
		"BIOS": {boot: netbootapi.BootDisk, have: all, arch: "", known: true, action: ActionNone, reason: ReasonArchitecture},
	} {
		t.Run(name, func(t *testing.T) {
			config, machine := policyConfig(c.boot)
			have := func(d string) bool { return strings.Contains(c.have, d[7:8]) }
			d := Decide(config, c.state, have, Client{Machine: machine, Architecture: c.arch, ArchitectureKnown: c.known})
			if d.Action != c.action {
				t.Errorf("got action %s, want %s", d.Action, c.action)
			}
			if d.Reason != c.reason {
				t.Errorf("got reason %s, want %s", d.Reason, c.reason)
			}
			if d.Message == "" {
				t.Error("got no message, want one")
			}
			if got, want := d.Program != nil, d.Action != ActionNone; got != want {
				t.Errorf("action %s: got program %v, want one: %t", d.Action, d.Program, want)
			}
			if got, want := d.Machine != nil, d.Action != ActionNone; got != want {
				t.Errorf("action %s: got machine %v, want one: %t", d.Action, d.Machine, want)
			}
		})
	}
	known, _ := policyConfig(netbootapi.BootInstall)
	for _, config := range []*netbootapi.ServerConfig{nil, known} {
		d := Decide(config, netbootapi.MachineState{}, func(string) bool { return true }, Client{})
		if d.Action != ActionNone {
			t.Errorf("unknown client: got action %s, want %s", d.Action, ActionNone)
		}
		if d.Reason != ReasonUnknown {
			t.Errorf("unknown client: got reason %s, want %s", d.Reason, ReasonUnknown)
		}
	}
}

func TestInstalling(t *testing.T) {
	fetched := netbootapi.MachineState{Attempt: "1", ProfileDigest: "p"}
	with := func(edit func(*netbootapi.MachineState)) netbootapi.MachineState {
		s := fetched
		edit(&s)
		return s
	}
	for name, c := range map[string]struct {
		powerOn string
		state   netbootapi.MachineState
		want    bool
	}{
		"plan fetched": {powerOn: "p", state: fetched, want: true},
		"writing": {powerOn: "p", want: true, state: with(func(s *netbootapi.MachineState) {
			s.Install = &netbootapi.InstallState{Stage: "Write"}
		})},
		"installed, not phoned home": {powerOn: "p", want: true, state: with(func(s *netbootapi.MachineState) {
			s.Install = &netbootapi.InstallState{DoneAt: time.Unix(1, 0)}
		})},
		"phoned home": {powerOn: "p", state: with(func(s *netbootapi.MachineState) { s.PhoneHome = &netbootapi.PhoneHome{} })},
		"failed": {powerOn: "p", state: with(func(s *netbootapi.MachineState) {
			s.Install = &netbootapi.InstallState{Error: "disk"}
		})},
		"power-on not known yet": {state: fetched, want: true},
		"installed, switched off": {want: true, state: with(func(s *netbootapi.MachineState) {
			s.Install = &netbootapi.InstallState{DoneAt: time.Unix(1, 0)}
		})},
		"failed, switched off": {state: with(func(s *netbootapi.MachineState) {
			s.Install = &netbootapi.InstallState{Error: "disk"}
		})},
		"no plan yet":     {powerOn: "p", state: netbootapi.MachineState{Attempt: "1"}},
		"another attempt": {powerOn: "p", state: with(func(s *netbootapi.MachineState) { s.Attempt = "0" })},
	} {
		t.Run(name, func(t *testing.T) {
			_, machine := policyConfig(netbootapi.BootInstall)
			machine.PowerOn = c.powerOn
			if got := Installing(machine, c.state); got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}

func TestSecretsInForce(t *testing.T) {
	begun := netbootapi.MachineState{Attempt: "1", Install: &netbootapi.InstallState{Stage: "Write"}}
	done := netbootapi.MachineState{Attempt: "1", Install: &netbootapi.InstallState{DoneAt: time.Unix(1, 0)}}
	home := done
	home.PhoneHome = &netbootapi.PhoneHome{}
	old := home
	old.Attempt = "0"
	for name, c := range map[string]struct {
		boot          netbootapi.Boot
		ended         bool
		state         netbootapi.MachineState
		install, seed bool
	}{
		"declared":                    {boot: netbootapi.BootInstall, state: netbootapi.MachineState{Attempt: "1"}, install: true, seed: true},
		"installing":                  {boot: netbootapi.BootInstall, state: begun, install: true, seed: true},
		"installer done":              {boot: netbootapi.BootInstall, state: done, seed: true},
		"installed":                   {boot: netbootapi.BootDisk, state: done, seed: true},
		"phoned home":                 {boot: netbootapi.BootDisk, state: home},
		"observations lost":           {boot: netbootapi.BootDisk, ended: true, state: netbootapi.MachineState{Attempt: "1"}},
		"network boot off":            {boot: netbootapi.BootNone, state: netbootapi.MachineState{Attempt: "1"}, seed: true},
		"state of an earlier attempt": {boot: netbootapi.BootInstall, state: old, install: true, seed: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := &netbootapi.Machine{Control: netbootapi.Control{Attempt: "1", Boot: c.boot, SeedEnded: c.ended}}
			if got := MayInstall(m, c.state); got != c.install {
				t.Errorf("MayInstall: got %t, want %t", got, c.install)
			}
			if got := MaySeed(m, c.state); got != c.seed {
				t.Errorf("MaySeed: got %t, want %t", got, c.seed)
			}
		})
	}
}
