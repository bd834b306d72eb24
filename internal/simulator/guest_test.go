// SPDX-License-Identifier: Apache-2.0

package simulator_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
	"github.com/pxelab/pxelab/internal/simulator/internal/guest"
	"github.com/pxelab/pxelab/internal/simulator/server"
)

// The names under which the test binary runs as a simulator: one that runs fakeGuests,
// one that runs the guests of package guest, one that never serves its socket, and one
// of another version of the protocol.
const (
	programName = "simulator"
	guestsName  = "guests"
	silentName  = "silent"
	otherName   = "other"
)

func TestMain(m *testing.M) {
	name := filepath.Base(os.Args[0])
	if name == programName || name == guestsName || name == silentName || name == otherName {
		if err := runProgram(name); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(server.ExitStatus(err))
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// runProgram runs a simulator, until the test has ended that started it.
func runProgram(name string) error {
	data := flag.String("data-dir", "", "")
	runtime := flag.String("runtime-dir", "", "")
	flag.Parse()
	parent := os.Getppid()
	go func() {
		for {
			time.Sleep(time.Second)
			if _, err := os.Lstat(os.Args[0]); err != nil || os.Getppid() != parent {
				os.Exit(1)
			}
		}
	}()
	switch name {
	case silentName:
		select {}
	case otherName:
		return runOther(control.NewFiles(*data, *runtime))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	o := server.Options{DataDir: *data, RuntimeDir: *runtime, NewGuest: newFakeGuest, Log: stderrLog()}
	if name == guestsName {
		o.NewGuest = nil
	}
	return server.Run(ctx, o)
}

func stderrLog() logr.Logger {
	return funcr.New(func(prefix, args string) { fmt.Fprintln(os.Stderr, prefix, args) }, funcr.Options{})
}

// runOther serves a Hello of another version of the protocol.
func runOther(f control.Files) error {
	l, err := net.Listen("unix", f.Socket)
	if err != nil {
		return err
	}
	self, err := process.Find(os.Getpid())
	if err != nil {
		return err
	}
	if err := control.SaveProgram(f.Record, control.Program{Process: self, Socket: f.Socket}); err != nil {
		return err
	}
	hello, err := control.Encode(control.Message{Hello: &control.Hello{Protocol: control.Version + 1, Process: self}})
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		if _, err := c.Write(hello); err != nil {
			return err
		}
	}
}

// fakeGuest does what the frames that it receives contain:
//
//	poweroff     powers off
//	reset        resets
//	panic        has a bug
//	panic later  has a bug in another goroutine
//	fragile      has a bug that its reset button shows
//	linger       takes a second to stop from then on
//	obey         obeys the power button from then on
//	echo TEXT    sends a frame with TEXT
//	print TEXT   writes TEXT to the serial port
//	store TEXT   stores TEXT on the disk
//	load         sends a frame with what is on the disk
//
// It prints "boots DEVICE" at its start and after each reset.
type fakeGuest struct {
	config guest.Config
	off    chan struct{}
	once   sync.Once

	mu      sync.Mutex
	obey    bool
	fragile bool
	linger  time.Duration
}

func newFakeGuest(c guest.Config) server.Guest {
	return &fakeGuest{config: c, off: make(chan struct{})}
}

func (g *fakeGuest) boot() {
	fmt.Fprintf(g.config.Serial, "power-on %d boots %s\n", g.config.PowerOn, strings.Join(g.config.BootOrder(), ","))
}

func (g *fakeGuest) Run(ctx context.Context) guest.End {
	g.boot()
	g.config.OnUp()
	select {
	case <-ctx.Done():
		g.mu.Lock()
		linger := g.linger
		g.mu.Unlock()
		time.Sleep(linger)
		return guest.Stopped
	case <-g.off:
		return guest.PowerOff
	}
}

func (g *fakeGuest) Reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fragile {
		panic(bug)
	}
	g.boot()
}

// bug is the cause of the panics of a fakeGuest.
const bug = "a bug of the guest"

// panicLater panics in another goroutine, as those of a guest do.
func (g *fakeGuest) panicLater() {
	go func() {
		defer func() { g.config.OnPanic(recover()) }()
		panic(bug)
	}()
}

func (g *fakeGuest) PowerButton() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.obey {
		g.powerOff()
	}
}

func (g *fakeGuest) powerOff() { g.once.Do(func() { close(g.off) }) }

func (g *fakeGuest) Receive(nic string, frame []byte) {
	reply := func(text string) {
		for _, n := range g.config.NICs {
			if n.ID == nic {
				n.Send([]byte(text))
			}
		}
	}
	command, text, _ := strings.Cut(string(frame), " ")
	switch command {
	case "poweroff":
		g.powerOff()
	case "reset":
		g.config.OnReset("guest-reset")
		g.boot()
	case "panic":
		if text == "" {
			panic(bug)
		}
		g.panicLater()
	case "fragile":
		g.mu.Lock()
		g.fragile = true
		g.mu.Unlock()
		reply("fragile")
	case "linger":
		g.mu.Lock()
		g.linger = time.Second
		g.mu.Unlock()
		reply("lingers")
	case "obey":
		g.mu.Lock()
		g.obey = true
		g.mu.Unlock()
	case "echo":
		reply(text)
	case "print":
		_, _ = io.WriteString(g.config.Serial, text)
	case "store":
		if err := g.config.Disk.Store([]byte(text)); err != nil {
			text = err.Error()
		}
		reply(text)
	case "load":
		content, err := g.config.Disk.Load()
		switch {
		case err != nil:
			reply(err.Error())
		case content == nil:
			reply("blank")
		default:
			reply("content " + string(content))
		}
	}
}

// order sends a command to the guest of a machine with the socket of its NIC.
func order(t *testing.T, socket, command string) {
	t.Helper()
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(command)); err != nil {
		t.Fatal(err)
	}
}

// kill sends a signal to a process.
func kill(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
}
