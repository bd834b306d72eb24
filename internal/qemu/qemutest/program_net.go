// SPDX-License-Identifier: Apache-2.0

package qemutest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
)

// forward is a TCP port of the host that leads to a port of the guest.
type forward struct {
	rule      string // as in the command line
	address   string
	guestPort int
	netdev    string // ID of the backend
}

// netdev adds a network backend, which a device refers to.
func (c *commandLine) netdev(value string) error {
	id := ""
	for key, text := range pairs(value) {
		switch key {
		case "id":
			id = text
			c.backends[text] = true
		case "local.path":
			c.frames = append(c.frames, text)
		case "hostfwd":
			f, err := parseForward(text)
			if err != nil {
				return fmt.Errorf("-netdev %s: %w", value, err)
			}
			f.netdev = id
			c.forwards = append(c.forwards, f)
		}
	}
	return nil
}

// parseForward parses a rule such as "tcp:127.0.0.1:40000-:22".
func parseForward(rule string) (forward, error) {
	host, guest, ok := strings.Cut(strings.TrimPrefix(rule, "tcp:"), "-:")
	port, err := strconv.Atoi(guest)
	if !ok || err != nil {
		return forward{}, fmt.Errorf("invalid host forwarding rule '%s'", rule)
	}
	return forward{rule: rule, address: host, guestPort: port}, nil
}

// usernet returns the answer to "info usernet", in the format of libslirp.
func (c *commandLine) usernet() string {
	var out strings.Builder
	for i, f := range c.forwards {
		if i == 0 || f.netdev != c.forwards[i-1].netdev {
			fmt.Fprintf(&out, "Hub -1 (%s):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n", f.netdev)
		}
		host, port, _ := strings.Cut(f.address, ":")
		fmt.Fprintf(&out, "  %-17s %3d %15s %5s %15s %5d %5d %5d\n", "TCP[HOST_FORWARD]", 10+i, host, port, "10.0.2.15", f.guestPort, 0, 0)
	}
	return strings.ReplaceAll(out.String(), "\n", "\r\n")
}

// openNICs binds what the NICs' backends bind on the host, as QEMU does before the
// guest runs.
func (g *guest) openNICs() error {
	for _, path := range g.commandLine.frames {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
		if err != nil {
			return err
		}
		// A peer whose frames are not read would wait for room in the socket's buffer.
		go func() { _, _ = io.Copy(io.Discard, conn) }()
	}
	for _, f := range g.commandLine.forwards {
		l, err := net.Listen("tcp4", f.address)
		if err != nil {
			return fmt.Errorf("could not set up host forwarding rule '%s': %w", f.rule, err)
		}
		go g.forward(l, f.guestPort)
	}
	return nil
}

// forward connects clients of a forwarded port to the server that stands for the guest.
func (g *guest) forward(l net.Listener, guestPort int) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if guest, err := g.dial(guestPort); err == nil {
				defer guest.Close()
				relay(conn, guest)
			}
		}()
	}
}

// dial connects to the server that stands for the guest, which answers while it runs.
func (g *guest) dial(guestPort int) (net.Conn, error) {
	g.mu.Lock()
	runs := g.runState == "running"
	g.mu.Unlock()
	if !runs {
		return nil, errors.New("the guest does not run")
	}
	address, err := os.ReadFile(servicePath(g.dir, g.commandLine.uuid, guestPort))
	if err != nil {
		return nil, err
	}
	return net.Dial("tcp", string(address))
}

// relay copies in both directions until both have ended.
func relay(a, b net.Conn) {
	var directions sync.WaitGroup
	for _, c := range [][2]net.Conn{{a, b}, {b, a}} {
		directions.Go(func() {
			_, _ = io.Copy(c[0], c[1])
			if half, ok := c[0].(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			}
		})
	}
	directions.Wait()
}
