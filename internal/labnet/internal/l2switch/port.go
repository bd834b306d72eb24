// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
)

const (
	// socketBuffer is requested in both directions; the kernel may grant less.
	// On macOS it also bounds the size of one datagram.
	socketBuffer = 4 << 20
	// absentPause is the time until a missing peer is tried again, unless it
	// sends a frame first.
	absentPause = 20 * time.Millisecond
	// fullPause is the first pause between attempts on systems that do not report
	// when the peer has room again (macOS). It doubles up to longestFullPause, so that
	// a thousand machines that do not read cost little.
	fullPause        = 200 * time.Microsecond
	longestFullPause = 20 * time.Millisecond
	// stuckAfter is how long a machine may read nothing before only its reserve of the
	// buffers remains to it: the frames that wait are of no use by then, and the buffers
	// are needed by machines that are only slow.
	stuckAfter = 10 * time.Second
)

// port is one machine's connection. While nothing moves it costs one goroutine that
// waits for a frame, and no buffer. It receives on a bound socket that accepts
// frames from any sender, and sends on a second socket that is connected to the
// machine's: only a connected socket reports when a full peer has room again, but
// a connected socket would reject frames from a restarted machine.
type port struct {
	s             *Switch
	name          string
	local, remote string
	rx            *net.UnixConn
	rxRaw         syscall.RawConn
	rxFile        os.FileInfo
	policy        atomic.Pointer[policy]

	// place and trustedPlace are guarded by portSet.mu, macs by table.mu, bound by
	// bindings.mu, groups and everywhere by groups.mu, claimed and claimsSwept by
	// claims.mu.
	place, trustedPlace int
	macs                tablePort
	bound               []ipv4
	groups              []group
	everywhere          bool
	claimed             map[ipv6Addr]struct{}
	claimsSwept         time.Time

	police police
	asked  asked

	rxFrames, rxBytes, txFrames, txBytes, unlearned, flooded atomic.Uint64
	drops                                                    dropCounters

	// The frame being received, in a buffer of the switch that the port has only
	// until no frame follows, and the function that RawConn calls. Only receive uses
	// them.
	rxBuf   *[]byte
	rxSize  int
	rxError error
	rxOnce  func(fd uintptr) bool

	heard atomic.Bool // the machine has sent a frame since it was found absent
	done  chan struct{}
	wg    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	queue  queue
	// rand and lastDue implement impairment: a random source per port, so that
	// ports do not affect each other, and the time when the latest frame may
	// leave.
	rand    *rand.Rand
	lastDue time.Time
	// draining means that a writer runs: it does while frames are queued.
	draining bool
	// busy means that the writer holds a frame taken from the queue. While it is
	// set, other frames must be queued.
	busy bool
	// progress is when the writer last took a frame, or began.
	progress time.Time

	// The connection is guarded by mu while the port is not busy; while it is
	// busy only the writer uses it. tx is atomic only because of close.
	tx      atomic.Pointer[net.UnixConn]
	txRaw   syscall.RawConn
	retryAt time.Time

	// The frame and result of the current attempt, and the functions that RawConn
	// calls: created once, because a closure per frame would allocate.
	trying  []byte
	result  error
	tryOnce func(fd uintptr)
	tryWait func(fd uintptr) bool
}

type dropCounters struct {
	runt, oversize, badSource, spoofed, dhcpServer, router atomic.Uint64
	dhcpClient, arp, neighbor, ipSource, malformed         atomic.Uint64
	floodRate, resolveRate, requestRate                    atomic.Uint64
	queueFull, peerAbsent, impaired                        atomic.Uint64
}

func openPort(s *Switch, c PortConfig) (*port, error) {
	rx, file, err := bind(c.Local, c.Remote)
	if err != nil {
		return nil, err
	}
	raw, err := rx.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("using switch socket: %w", err), rx.Close())
	}
	p := &port{
		s: s, name: c.Name, local: c.Local, remote: c.Remote,
		rx: rx, rxRaw: raw, rxFile: file,
		done:  make(chan struct{}),
		rand:  newRand(s.opts.Seed, c.Name),
		queue: queue{maxFrames: s.opts.QueueFrames, maxBytes: s.opts.QueueBytes, large: s.maxFrame, budget: &s.budget},
	}
	p.rxOnce = p.readOne
	p.tryOnce = func(fd uintptr) { p.result = writeFrame(fd, p.trying) }
	p.tryWait = func(fd uintptr) bool {
		p.result = writeFrame(fd, p.trying)
		return !errors.Is(p.result, syscall.EAGAIN)
	}
	return p, nil
}

func writeFrame(fd uintptr, b []byte) error {
	for {
		_, err := syscall.Write(int(fd), b)
		if err != syscall.EINTR { // a plain errno; errors.Is would cost time for every frame
			return err
		}
	}
}

func readFrame(fd uintptr, b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), b)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

func (p *port) start() { p.wg.Go(p.receive) }

// close stops the port's goroutines and waits for them.
func (p *port) close() {
	p.mu.Lock()
	p.closed = true
	p.queue.clear()
	p.mu.Unlock()
	close(p.done) // before reading tx; connect stores tx before it checks done
	_ = p.rx.Close()
	// The file of a switch that has taken over since then is kept.
	if now, err := os.Lstat(p.local); err == nil && os.SameFile(now, p.rxFile) {
		if err := hostfs.RemoveStaleSocket("unixgram", p.local); err != nil && !errors.Is(err, ErrInUse) {
			p.s.log.Warn("failed to remove switch socket", "port", p.name, "err", err)
		}
	}
	if tx := p.tx.Load(); tx != nil {
		_ = tx.Close()
	}
	p.wg.Wait()
	p.disconnect()
}

// receive reads frames until the port is closed.
func (p *port) receive() {
	defer p.putBuffer()
	for {
		err := p.rxRaw.Read(p.rxOnce)
		if err == nil {
			err = p.rxError
		}
		switch {
		case err == nil:
			p.heard.Store(true)
			p.s.forward(p, (*p.rxBuf)[:p.rxSize])
		case errors.Is(err, net.ErrClosed):
			return
		default:
			p.s.log.Warn("failed to read from switch port", "port", p.name, "err", err)
			if !p.sleep(absentPause) {
				return
			}
		}
	}
}

// readOne reads one frame, and reports false if there is none to read yet.
func (p *port) readOne(fd uintptr) bool {
	if p.rxBuf == nil {
		p.rxBuf = p.s.buffers.Get().(*[]byte)
	}
	p.rxSize, p.rxError = readFrame(fd, *p.rxBuf)
	if errors.Is(p.rxError, syscall.EAGAIN) {
		p.putBuffer()
		return false
	}
	return true
}

func (p *port) putBuffer() {
	if p.rxBuf != nil {
		p.s.buffers.Put(p.rxBuf)
		p.rxBuf = nil
	}
}

// account counts the result of sending a frame of n bytes.
func (p *port) account(err error, n int) {
	switch {
	case err == nil:
		p.txFrames.Add(1)
		p.txBytes.Add(uint64(n))
	case errors.Is(err, syscall.EMSGSIZE):
		p.drops.oversize.Add(1)
	default:
		p.drops.peerAbsent.Add(1)
	}
}

func (p *port) stats() PortStats {
	p.mu.Lock()
	queued := p.queue.len()
	if p.busy {
		queued++
	}
	p.mu.Unlock()
	return PortStats{
		Name:     p.name,
		RxFrames: p.rxFrames.Load(), RxBytes: p.rxBytes.Load(),
		TxFrames: p.txFrames.Load(), TxBytes: p.txBytes.Load(),
		Unlearned: p.unlearned.Load(), Flooded: p.flooded.Load(),
		Queued: queued,
		Drops:  p.drops.load(),
	}
}

func (d *dropCounters) load() Drops {
	return Drops{
		Runt: d.runt.Load(), Oversize: d.oversize.Load(),
		BadSource: d.badSource.Load(), Spoofed: d.spoofed.Load(),
		DHCPServer: d.dhcpServer.Load(), Router: d.router.Load(),
		DHCPClient: d.dhcpClient.Load(), ARP: d.arp.Load(),
		Neighbor: d.neighbor.Load(), IPSource: d.ipSource.Load(),
		Malformed: d.malformed.Load(),
		FloodRate: d.floodRate.Load(), ResolveRate: d.resolveRate.Load(),
		RequestRate: d.requestRate.Load(),
		QueueFull:   d.queueFull.Load(),
		PeerAbsent:  d.peerAbsent.Load(), Impaired: d.impaired.Load(),
	}
}
