// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// BenchmarkBoot measures a network installation from power-on to Ready, and then
// a boot of the installed disk from power-on to the same state: cloud-init has
// phoned home and SSH answers. Both use the same machine in the same lab, and
// netbootd as the observer.
func BenchmarkBoot(b *testing.B) {
	for range b.N {
		l := newLab(b)
		l.up(b, "--samples=none")
		applyFirst(b, l)

		installed := l.awaitPhase(b, "target-1", v1alpha1.TargetBooting)
		pristine := copyUnwritten(b, installed.Status.DiskPath)
		w := watchServer(b, l, installed.Spec.ProvisioningServerRef.Name)
		ready := l.awaitPhase(b, "target-1", v1alpha1.TargetReady)
		install := phases(ready)

		l.update(b, "target-1", func(s *v1alpha1.BareMetalTargetSpec) { s.Power = v1alpha1.PowerOff })
		l.await(b, "target-1", "off", func(o *v1alpha1.BareMetalTarget) bool { return o.Status.Power == v1alpha1.PowerOff })
		if err := os.Rename(pristine, installed.Status.DiskPath); err != nil {
			b.Fatal(err)
		}
		w.forget()
		l.update(b, "target-1", func(s *v1alpha1.BareMetalTargetSpec) { s.Power = v1alpha1.PowerOn })
		booted := l.awaitPhase(b, "target-1", v1alpha1.TargetReady)
		on := powerOn(b, booted)
		direct := w.ready(b, string(booted.UID)).Sub(on)

		fmt.Printf("\n%-34s %8s\n", "network install", "seconds")
		var total float64
		for _, p := range install {
			fmt.Printf("  %-32s %8.1f\n", p.name, p.seconds)
			total += p.seconds
		}
		fmt.Printf("  %-32s %8.1f\n", "power-on to Ready", total)
		fmt.Printf("%-34s %8.1f\n", "installed disk, power-on to Ready", direct.Seconds())
		fmt.Printf("%-34s %8.2f\n\n", "ratio", total/direct.Seconds())
		b.ReportMetric(total, "install-s")
		b.ReportMetric(direct.Seconds(), "direct-s")
		b.ReportMetric(total/direct.Seconds(), "ratio")
	}
}

// applyFirst applies the Debian samples with only one target, so that no other
// machine competes with it.
func applyFirst(b *testing.B, l *lab) {
	b.Helper()
	out, err := l.run(b.Context(), "bin/controlplane", "kubectl", "apply", "-f", "config/samples/debian")
	if err == nil {
		var more string
		more, err = l.run(b.Context(), "bin/controlplane", "kubectl", "delete", "baremetaltarget", "target-2")
		out += more
	}
	if err != nil {
		b.Fatalf("applying the samples: %v\n%s", err, out)
	}
}

type phaseTime struct {
	name    string
	seconds float64
}

// phases returns the durations of the phases from PXE to Ready.
func phases(bmt *v1alpha1.BareMetalTarget) []phaseTime {
	var out []phaseTime
	for _, record := range bmt.Status.Timeline {
		if record.Phase == v1alpha1.TargetPending || record.Seconds == "" {
			continue
		}
		var seconds float64
		if _, err := fmt.Sscan(record.Seconds, &seconds); err == nil {
			out = append(out, phaseTime{string(record.Phase), seconds})
		}
	}
	return out
}

// powerOn returns the start time of the last boot.
func powerOn(b *testing.B, bmt *v1alpha1.BareMetalTarget) time.Time {
	b.Helper()
	for i := len(bmt.Status.Timeline) - 1; i >= 0; i-- {
		if bmt.Status.Timeline[i].Phase == v1alpha1.TargetBooting {
			return bmt.Status.Timeline[i].StartedAt.Time
		}
	}
	b.Fatalf("got timeline %+v, want a Booting phase in it", bmt.Status.Timeline)
	return time.Time{}
}

// copyUnwritten copies a disk after the installer has finished and before the
// installed system writes to it: its firmware and boot loader take many seconds.
// It fails if the disk was written to meanwhile.
func copyUnwritten(b *testing.B, disk string) string {
	b.Helper()
	before, err := os.Stat(disk)
	if err != nil {
		b.Fatal(err)
	}
	dst := disk + ".pristine"
	if out, err := exec.CommandContext(b.Context(), "cp", "--sparse=always", "--reflink=auto", disk, dst).CombinedOutput(); err != nil {
		b.Fatalf("copying the disk: %v\n%s", err, out)
	}
	after, err := os.Stat(disk)
	if err != nil {
		b.Fatal(err)
	}
	if !before.ModTime().Equal(after.ModTime()) {
		b.Fatal("the disk was written to during the copy")
	}
	return dst
}

// serverWatch records netbootd's state, in parallel with the manager.
type serverWatch struct {
	mu       sync.Mutex
	since    time.Time
	observed netbootapi.Observed
}

func watchServer(t testing.TB, l *lab, name string) *serverWatch {
	t.Helper()
	server, secret := &v1alpha1.ProvisioningServer{}, &corev1.Secret{}
	key := client.ObjectKey{Namespace: "default", Name: name}
	err := l.client.Get(t.Context(), key, server)
	err = errors.Join(err, l.client.Get(t.Context(), client.ObjectKey{Namespace: key.Namespace, Name: name + "-agent"}, secret))
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := netbootapi.DecodeCredentials(secret.Data)
	if err != nil {
		t.Fatal(err)
	}
	tls, err := credentials.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	c, err := netbootapi.New(netbootapi.ClientOptions{Address: server.Status.Endpoints.Agent, TLS: tls})
	if err != nil {
		t.Fatal(err)
	}
	w := &serverWatch{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = c.Watch(ctx, w.position(), func(u netbootapi.Update) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.observed.Apply(u)
			})
			select {
			case <-ctx.Done():
			case <-time.After(watchRetry):
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		c.Close()
	})
	return w
}

// now returns the last observed state.
func (w *serverWatch) now() netbootapi.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.observed.State
}

// position returns where the next watch continues.
func (w *serverWatch) position() netbootapi.Position {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.observed.Position
}

// forget makes ready ignore what was observed before.
func (w *serverWatch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since = time.Now()
}

// ready waits until the machine has phoned home and answered on SSH after the
// call of forget, and returns the later time.
func (w *serverWatch) ready(b *testing.B, uid string) time.Time {
	b.Helper()
	deadline := newDeadline(guestLimit)
	for {
		w.mu.Lock()
		m, since := w.observed.Machines[uid], w.since
		w.mu.Unlock()
		if m.PhoneHome != nil && m.PhoneHome.At.After(since) && m.SSH.Up && m.SSH.UpSince.After(since) {
			if m.SSH.UpSince.After(m.PhoneHome.At) {
				return m.SSH.UpSince
			}
			return m.PhoneHome.At
		}
		deadline.pause(b, "the machine did not phone home after the boot from its disk")
	}
}
