// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// runGuests makes the guest of every machine of a server that runs do at once what it
// was started for, until stop is called. SSH of targets whose name begins with "silent"
// never answers.
func (l *lab) runGuests(server string, runner machine.Runner) (stop func()) {
	n := l.netbootd(server)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() {
		events := runner.Watch(ctx)
		for {
			changed, seen := n.Changed(), n.State().Machines
			for _, m := range n.Machines() {
				edit := nextOf(m, seen[m.UID])
				if edit == nil {
					continue
				}
				if state, err := runner.Observe(ctx, m.UID); err == nil && state.Phase == machine.PhaseRunning {
					n.UpdateMachine(m.UID, edit)
				}
			}
			select {
			case <-changed:
			case <-events:
			case <-ctx.Done():
				return
			}
			time.Sleep(20 * time.Millisecond) // a pass is work, so it is for several changes
		}
	})
	return func() {
		cancel()
		tasks.Wait()
	}
}

// nextOf returns how what is seen of a machine that runs changes next, nil for not at
// all.
func nextOf(m netbootapi.Machine, s netbootapi.MachineState) func(*netbootapi.MachineState) {
	now, silent := time.Now().UTC(), strings.HasPrefix(m.Name, "silent")
	switch {
	case m.PowerOn == "":
	case m.Boot == netbootapi.BootInstall && s.Install == nil:
		return func(s *netbootapi.MachineState) {
			s.DiscoverAt = now
			s.RequestAt = now
			s.ProgramAt = now
			s.ScriptAt = now
			s.KernelAt = now
			s.InitrdAt = now
			s.ProfileDigest = m.ProfileDigest
			s.Declared = m.Declared
			s.RootDiskName = m.RootDiskName
			s.Install = &netbootapi.InstallState{StartedAt: now, UpdatedAt: now, Stage: "Done", BytesWritten: 1, BytesTotal: 1, DoneAt: now}
		}
	case m.Boot == netbootapi.BootDisk && (s.PhoneHome == nil || s.SSH.PowerOn == m.PowerOn && !s.SSH.Up && !silent):
		return func(s *netbootapi.MachineState) {
			s.CloudInitAt = now
			s.PhoneHome = &netbootapi.PhoneHome{At: now, Hostname: m.Hostname, HostKeys: []string{"ssh-ed25519 AAAA " + m.Name}}
			s.SSH = netbootapi.SSHState{PowerOn: m.PowerOn, CheckedAt: now}
			if !silent {
				s.SSH.Up, s.SSH.UpSince = true, now
			}
		}
	}
	return nil
}
