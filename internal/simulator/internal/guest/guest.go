// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Reasons why a boot ends. A boot also ends with its context.
var (
	errPowerOff    = errors.New("the machine switched itself off")
	errPowerLost   = errors.New("the machine lost its power")
	errPowerButton = errors.New("the power button was pressed")
	errResetButton = errors.New("the reset button was pressed")
)

// resetError is a reset that the guest requested.
type resetError struct{ detail string }

func (e resetError) Error() string { return "the guest requested a reset: " + e.detail }

// minPass is the least time between two starts of the firmware, and from the start of a
// kernel until it resets in a loop, so that a machine with such a loop does not load the
// lab more than a real one, and is observed as a real one.
const minPass = time.Second

// Guest is a simulated machine. Its methods are safe for concurrent use, except Run,
// which must be called once.
type Guest struct {
	config Config
	nics   []*nic
	serial *serial
	faults map[FaultType]bool
	// pass and failPause are minPass and the installer's pause, shorter in tests.
	pass, failPause time.Duration
	// hurry divides the waits for answers of DHCP and TFTP in tests.
	hurry time.Duration

	mu sync.Mutex
	// end ends the current boot; nil while there is none.
	end context.CancelCauseFunc
	// acpi is set while an operating system reacts to the power button.
	acpi    bool
	random  *rand.Rand
	started time.Time
}

// New returns a machine that is switched off.
func New(c Config) *Guest {
	if c.Architecture == "" {
		c.Architecture = x8664
	}
	if c.BootOrder == nil {
		c.BootOrder = func() []string { return nil }
	}
	if c.OnReset == nil {
		c.OnReset = func(string) {}
	}
	if c.OnUp == nil {
		c.OnUp = func() {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Random == nil {
		var seed [32]byte
		_, _ = crand.Read(seed[:]) // never fails
		c.Random = rand.New(rand.NewChaCha8(seed))
	}
	g := &Guest{
		config: c, serial: newSerial(c.Serial), random: c.Random, faults: map[FaultType]bool{},
		pass: minPass, failPause: installerFailPause, hurry: 1,
	}
	powerOn := max(1, c.PowerOn)
	for _, f := range c.Options.Faults {
		hit := f.Probability == 0 || g.random.Float64() < f.Probability
		if hit && (f.Attempts == 0 || powerOn <= f.Attempts) {
			g.faults[f.Type] = true
		}
	}
	budget := &atomic.Int64{}
	rate := newLimiter(c.Options.LinkRate)
	for _, n := range c.NICs {
		if g.faults[ForeignMAC] {
			n.MAC = foreign(n.MAC)
		}
		card := newNIC(n, budget, rate)
		card.onPanic = c.OnPanic
		g.nics = append(g.nics, card)
	}
	return g
}

// rescue reports a panic of the goroutine that defers it. Without onPanic, it does not
// recover.
func rescue(onPanic func(cause any)) {
	if onPanic == nil {
		return
	}
	if cause := recover(); cause != nil {
		onPanic(cause)
	}
}

// foreign returns another MAC address, which is locally administered.
func foreign(mac net.HardwareAddr) net.HardwareAddr {
	other := append(net.HardwareAddr(nil), mac...)
	if len(other) == 6 {
		other[0] |= 2
		other[5] ^= 0x80
	}
	return other
}

// Receive passes a frame from the switch to a network card. It never blocks and does
// not keep the frame. A frame is lost if the card is not in use or the machine's
// buffers, which hold 64 KiB, are full.
func (g *Guest) Receive(nicID string, frame []byte) {
	for _, n := range g.nics {
		if n.id == nicID {
			n.receive(frame)
			return
		}
	}
}

// Run runs the machine from the start of its firmware until it switches itself off or
// ctx ends. Resets continue inside; those that the guest requests are reported to
// OnReset. When Run returns, nothing of the machine runs any more.
func (g *Guest) Run(ctx context.Context) End {
	for {
		started := time.Now()
		bootCtx, end := context.WithCancelCause(ctx)
		g.mu.Lock()
		g.end = end
		g.started = g.config.Now()
		g.mu.Unlock()
		cause := g.boot(bootCtx)
		if c := context.Cause(bootCtx); c != nil {
			cause = c
		}
		g.mu.Lock()
		g.end = nil
		g.acpi = false
		g.mu.Unlock()
		end(nil)
		if ctx.Err() != nil {
			return Stopped
		}
		switch {
		case errors.Is(cause, errPowerButton):
			g.printShutdown()
			return PowerOff
		case errors.Is(cause, errPowerOff), errors.Is(cause, errPowerLost):
			return PowerOff
		}
		var reset resetError
		if errors.As(cause, &reset) {
			g.config.OnReset(reset.detail)
		}
		if pause(ctx, g.pass-time.Since(started)) != nil {
			return Stopped
		}
	}
}

// Reset presses the reset button. It has no effect on a machine that is not running.
func (g *Guest) Reset() { g.finish(errResetButton) }

// PowerButton presses the power button: an installed system shuts down, the firmware,
// iPXE and the installer ignore it.
func (g *Guest) PowerButton() {
	g.mu.Lock()
	reacts := g.acpi
	g.mu.Unlock()
	if reacts {
		g.finish(errPowerButton)
	}
}

// finish ends the current boot.
func (g *Guest) finish(cause error) {
	g.mu.Lock()
	end := g.end
	g.mu.Unlock()
	if end != nil {
		end(cause)
	}
}

func (g *Guest) setACPI(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.acpi = on
}

// uint32n returns a random number below n, or any if n is 0.
func (g *Guest) uint32n(n uint32) uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n == 0 {
		return g.random.Uint32()
	}
	return g.random.Uint32N(n)
}

// uptime is how long the machine has been running since its last reset.
func (g *Guest) uptime() time.Duration {
	g.mu.Lock()
	started := g.started
	g.mu.Unlock()
	return g.config.Now().Sub(started)
}

// halt blocks until the boot ends, and returns why.
func halt(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// pause waits for d. It returns an error if ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
