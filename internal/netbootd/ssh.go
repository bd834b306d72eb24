// SPDX-License-Identifier: Apache-2.0

package netbootd

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

	"github.com/pxelab/pxelab/internal/netbootapi"
)

const (
	sshTick     = time.Second
	sshPatience = 10 * time.Second
	// maxGreeting bounds, in bytes, the text before the identification string.
	maxGreeting = 8 << 10
)

type dialFunc func(ctx context.Context, address netip.AddrPort) (net.Conn, error)

// sshProber probes the machines' SSH ports when nextProbes selects them.
type sshProber struct {
	state *stateStore
	dial  dialFunc
	port  uint16

	mu sync.Mutex
	// busy holds, by UID, the probes in progress and whether the machine's last
	// probe failed.
	busy map[string]bool
	last map[string]probed
}

func newSSHProber(k *stateStore, dial dialFunc, port uint16) *sshProber {
	return &sshProber{state: k, dial: dial, port: port, busy: map[string]bool{}, last: map[string]probed{}}
}

// run blocks until ctx and all probes have ended.
func (p *sshProber) run(ctx context.Context) {
	tick := time.NewTicker(sshTick)
	defer tick.Stop()
	var probes sync.WaitGroup
	defer probes.Wait()
	for {
		for _, c := range p.next(p.state.now()) {
			probes.Go(func() { p.probe(ctx, c) })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// next returns the machines to probe now and marks them busy.
func (p *sshProber) next(now time.Time) []sshCandidate {
	p.mu.Lock()
	defer p.mu.Unlock()
	var candidates []sshCandidate
	declared := map[string]bool{}
	p.state.machines(func(m *netbootapi.Machine, s netbootapi.MachineState) {
		declared[m.UID] = true
		if _, busy := p.busy[m.UID]; !busy && asksSSH(m, s) {
			candidates = append(candidates, sshCandidate{machine: m, round: sshRoundOf(m, s), last: p.last[m.UID]})
		}
	})
	for uid := range p.last {
		if !declared[uid] {
			delete(p.last, uid)
		}
	}
	failing := 0
	for _, fails := range p.busy {
		if fails {
			failing++
		}
	}
	next := nextProbes(candidates, now, sshPlaces-len(p.busy), sshFailingPlaces-failing)
	for _, c := range next {
		p.busy[c.machine.UID] = c.failing()
	}
	return next
}

func (p *sshProber) probe(ctx context.Context, c sshCandidate) {
	m := c.machine
	err := p.greet(ctx, netip.AddrPortFrom(m.Address, p.port))
	p.mu.Lock()
	defer p.mu.Unlock()
	next := probed{round: c.round, at: p.state.now()}
	if err != nil {
		next.failures = c.failures() + 1
	}
	if ctx.Err() == nil {
		problem, turned := "", false
		if err != nil {
			problem = clip(err.Error())
		}
		p.state.quiet(m, func(s *netbootapi.MachineState) bool {
			if s.SSH.Up && 0 < next.failures && next.failures < sshFailures {
				return false
			}
			was := s.SSH.Up
			news := sawSSH(s, m.PowerOn, p.state.now().UTC(), problem)
			turned = news && s.SSH.Up != was
			return news
		})
		if turned {
			p.state.record(m, sshRecord(problem))
		}
	}
	delete(p.busy, m.UID)
	p.last[m.UID] = next
}

func sshRecord(problem string) netbootapi.Event {
	if problem == "" {
		return netbootapi.Event{Kind: netbootapi.EventSSH, Name: "Up"}
	}
	return netbootapi.Event{Kind: netbootapi.EventSSH, Name: "Down", Detail: problem}
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
		return errors.New("connected, but received no SSH identification string")
	}
	return errors.New("the SSH port does not answer as an SSH server")
}

// plainDialError omits the local port, which would make each failure look
// different.
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
