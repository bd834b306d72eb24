// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
)

const (
	sshTick     = time.Second
	sshAgain    = 15 * time.Second
	sshPatience = 10 * time.Second
	// sshFailures is how many questions in a row a port that did answer must
	// leave open to count as down: a busy host answers late.
	sshFailures = 3
	// maxGreeting bounds what may come before the identification string.
	maxGreeting = 8 << 10
	sshParallel = 16
)

type dialFunc func(ctx context.Context, address netip.AddrPort) (net.Conn, error)

// sshProber asks the machines' SSH ports: every second until one answers, then
// now and then whether it still does.
type sshProber struct {
	keeper *keeper
	dial   dialFunc
	port   uint16

	mu   sync.Mutex
	busy map[string]bool
	last map[string]probed
}

// probed is when a machine was asked last, in which attempt and power-on.
type probed struct {
	at    time.Time
	round string
	// failures counts the questions without an answer since the last one.
	failures int
}

func newSSHProber(k *keeper, dial dialFunc, port uint16) *sshProber {
	return &sshProber{keeper: k, dial: dial, port: port, busy: map[string]bool{}, last: map[string]probed{}}
}

// run blocks until ctx ends and all its probes have.
func (p *sshProber) run(ctx context.Context) {
	tick := time.NewTicker(sshTick)
	defer tick.Stop()
	var probes sync.WaitGroup
	defer probes.Wait()
	for {
		for _, m := range p.due(time.Now()) {
			probes.Go(func() { p.probe(ctx, m) })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// due picks the machines to ask now and marks them busy.
func (p *sshProber) due(now time.Time) []*agent.Machine {
	p.mu.Lock()
	defer p.mu.Unlock()
	var due []*agent.Machine
	declared := map[string]bool{}
	p.keeper.machines(func(m *agent.Machine, s agent.MachineState) {
		declared[m.UID] = true
		last := p.last[m.UID]
		fresh := last.round != roundOf(m)
		if !asksSSH(m, s) || p.busy[m.UID] || len(p.busy) >= sshParallel {
			return
		}
		if fresh || last.failures > 0 || now.Sub(last.at) >= sshAgain {
			p.busy[m.UID] = true
			due = append(due, m)
		}
	})
	for uid := range p.last {
		if !declared[uid] {
			delete(p.last, uid)
		}
	}
	return due
}

func roundOf(m *agent.Machine) string { return m.Attempt + " " + m.PowerOn }

func (p *sshProber) probe(ctx context.Context, m *agent.Machine) {
	err := p.greet(ctx, netip.AddrPortFrom(m.Address, p.port))
	p.mu.Lock()
	defer p.mu.Unlock()
	next := probed{at: time.Now(), round: roundOf(m)}
	if err != nil {
		next.failures = 1
		if last := p.last[m.UID]; last.round == next.round {
			next.failures += last.failures
		}
	}
	if ctx.Err() == nil {
		problem := ""
		if err != nil {
			problem = clip(err.Error())
		}
		p.keeper.quiet(m, func(s *agent.MachineState) bool {
			if s.SSH.Up && 0 < next.failures && next.failures < sshFailures {
				return false
			}
			return sawSSH(s, m.PowerOn, p.keeper.now().UTC(), problem)
		})
	}
	delete(p.busy, m.UID)
	p.last[m.UID] = next
}

// greet connects and waits for the identification string, which other lines
// may precede (RFC 4253, section 4.2).
func (p *sshProber) greet(ctx context.Context, address netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, sshPatience)
	defer cancel()
	conn, err := p.dial(ctx, address)
	if err != nil {
		return plainDialError(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	lines := bufio.NewScanner(io.LimitReader(conn, maxGreeting))
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "SSH-") {
			return nil
		}
	}
	if ctx.Err() != nil {
		return errors.New("connected, and no SSH identification came")
	}
	return errors.New("what answers on the SSH port is no SSH server")
}

// plainDialError leaves out the local port, which would make every failure a
// new one.
func plainDialError(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		if op.Timeout() {
			return errors.New("no answer on the SSH port")
		}
		return fmt.Errorf("SSH port: %w", op.Err)
	}
	return err
}
