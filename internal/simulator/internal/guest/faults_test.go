// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"slices"
	"strings"
	"testing"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// TestFaults shows for each fault what goes over the wire.
func TestFaults(t *testing.T) {
	hurried := func(g *Guest) { g.hurry = 100 }
	for fault, c := range map[FaultType]struct {
		change func(*Guest)
		// until is a line of the trace or of the output.
		until, output string
		// present and absent are lines of the trace by then.
		present, absent []string
		check           func(t *testing.T, l *lab)
	}{
		NoDiscover: {
			change: hurried, output: "BdsDxe: No bootable option", absent: []string{"DHCP DISCOVER firmware"},
			check: func(t *testing.T, l *lab) {
				if len(l.sources) != 0 {
					t.Errorf("got frames from %v, want none", l.sources)
				}
			},
		},
		NoRequest: {
			change: hurried, output: "PXE-E18: Server response timeout.",
			present: []string{"DHCP DISCOVER firmware"}, absent: []string{"DHCP REQUEST firmware"},
			check: func(t *testing.T, l *lab) {
				if got := len(l.trace); got != len(firmwareWaits) {
					t.Errorf("got %d messages, want %d DISCOVERs", got, len(firmwareWaits))
				}
			},
		},
		TFTPAbort: {
			until: "TFTP error 0", output: "PXE-E99", present: []string{"DHCP REQUEST firmware"}, absent: []string{"GET boot.ipxe"},
		},
		ScriptAbort: {
			until: "iPXE error at kernel", output: "pxelab: step kernel failed: error 0xf0a6095",
			present: []string{"GET boot.ipxe", "GET kernel"}, absent: []string{"GET initrd", "GET plan"},
		},
		InstallerError: {
			until: "report Failed", output: "pxelab: Failed writing the image to vda: writing 4096 bytes at 0 of vda: input/output error",
			absent: []string{"report Done"},
			check: func(t *testing.T, l *lab) {
				if r, err := loadRecord(l.disk); err != nil || r.bootable() {
					t.Errorf("disk: got %+v, error %v, want one that does not boot", r, err)
				}
			},
		},
		CloudInitFail: {
			until: "event modules-final finish FAIL", output: "Running module scripts-user ",
			present: []string{"event modules-final/config-scripts-user finish FAIL", "phone-home"},
		},
		NoPhoneHome: {
			until: "event modules-final/config-scripts-user start", present: []string{"GET ci/meta-data"},
			absent: []string{"phone-home", "event modules-final/config-scripts-user finish SUCCESS"},
		},
		NoSSH: {
			until: "event modules-final finish SUCCESS", output: "Failed to start ssh.service", present: []string{"phone-home"},
		},
		ForeignMAC: {
			until: "DHCP DISCOVER firmware", absent: []string{"DHCP REQUEST firmware"},
			check: func(t *testing.T, l *lab) {
				if l.sources[testMAC.String()] != 0 || l.sources[foreign(testMAC).String()] == 0 {
					t.Errorf("got frames from %v, want them from %s only", l.sources, foreign(testMAC))
				}
			},
		},
	} {
		t.Run(string(fault), func(t *testing.T) {
			l := newLab(t, fault)
			change := c.change
			if change == nil {
				change = func(*Guest) {}
			}
			off, _ := l.powerOn(change)
			if c.until != "" {
				l.awaitTrace(c.until)
			}
			if c.output != "" {
				l.awaitOutput(c.output)
			}
			off()
			trace := l.traced()
			for _, line := range c.present {
				if !slices.Contains(trace, line) {
					t.Errorf("got the trace\n%s\nwant %q", strings.Join(trace, "\n"), line)
				}
			}
			for _, line := range c.absent {
				if slices.Contains(trace, line) {
					t.Errorf("got the trace\n%s\nwant it without %q", strings.Join(trace, "\n"), line)
				}
			}
			if c.check != nil {
				c.check(t, l)
			}
		})
	}
}

// TestInstallerStall has an installer that hangs: it neither reads nor reports, until
// the reset button is pressed.
func TestInstallerStall(t *testing.T) {
	l := newLab(t, InstallerStall)
	l.powerOn()
	l.await("half of the image", func() bool {
		return len(l.reports) > 0 && l.reports[len(l.reports)-1].Stage == installerapi.StageWrite
	})
	l.guest.Load().PowerButton() // the installer ignores it
	l.guest.Load().Reset()
	l.await("another installation", func() bool {
		n := 0
		for _, line := range l.trace {
			if line == "GET plan" {
				n++
			}
		}
		return n > 1
	})
	if traced := l.traced(); slices.Contains(traced, "report Verify") || slices.Contains(traced, "report Failed") {
		t.Errorf("got the trace\n%s\nwant no report after that of Write", strings.Join(traced, "\n"))
	}
	if got := l.requested(); len(got) != 0 {
		t.Errorf("got resets %q that the guest requested, want none", got)
	}
}

// TestPowersOff loses its power twice: in the middle of the image, and when the
// installed system starts.
func TestPowersOff(t *testing.T) {
	l := newLab(t, PowersOff)
	_, ended := l.powerOn()
	if end := <-ended; end != PowerOff {
		t.Errorf("got end %s, want %s", end, PowerOff)
	}
	if traced := l.traced(); !slices.Contains(traced, "GET image") || slices.Contains(traced, "report Verify") {
		t.Errorf("got the trace\n%s\nwant an image that is not complete", strings.Join(traced, "\n"))
	}
	r := bootedRecord(t)
	if err := r.store(l.disk); err != nil {
		t.Fatal(err)
	}
	l.changed(func() { l.order, l.trace = []string{testDisk}, nil })
	_, ended = l.powerOn()
	if end := <-ended; end != PowerOff {
		t.Errorf("installed system: got end %s, want %s", end, PowerOff)
	}
	if traced := l.traced(); len(traced) != 0 {
		t.Errorf("installed system: got the trace %q, want none", traced)
	}
}

func TestResetLoop(t *testing.T) {
	l := newLab(t, ResetLoop)
	l.powerOn()
	l.await("many resets", func() bool { return len(l.resets) > 3 })
	if traced := l.traced(); slices.Contains(traced, "GET plan") {
		t.Errorf("got the trace\n%s\nwant no installer", strings.Join(traced, "\n"))
	}
}

// TestFaultOccurs covers the power-ons and the probability of faults.
func TestFaultOccurs(t *testing.T) {
	occurs := func(powerOn int, f Fault) bool {
		f.Type = NoSSH
		return New(Config{PowerOn: powerOn, Options: Options{Faults: []Fault{f}}}).faults[NoSSH]
	}
	for _, c := range []struct {
		powerOn int
		fault   Fault
		want    bool
	}{
		{0, Fault{}, true},
		{1, Fault{Attempts: 1}, true},
		{2, Fault{Attempts: 1}, false},
		{2, Fault{Attempts: 2}, true},
		{99, Fault{}, true},
		{1, Fault{Probability: 1}, true},
	} {
		if got := occurs(c.powerOn, c.fault); got != c.want {
			t.Errorf("power-on %d, %+v: got %t, want %t", c.powerOn, c.fault, got, c.want)
		}
	}
	hits := 0
	for range 400 {
		if occurs(1, Fault{Probability: 0.5}) {
			hits++
		}
	}
	if hits < 100 || hits > 300 {
		t.Errorf("probability 0.5: got %d of 400, want about half", hits)
	}
}
