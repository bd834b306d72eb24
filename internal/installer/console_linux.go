// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// console prints lines on every active console of the kernel: /dev/console is
// only the last of them, and an operator may watch any. A console that blocks
// (a serial line stopped by flow control) loses lines instead of blocking the
// installation.
type console struct {
	outputs []chan string
	flushed []chan struct{}
}

// openConsole opens the active consoles. devtmpfs and sysfs must be mounted.
func openConsole() *console {
	c := &console{}
	for _, name := range consoleNames(sysfsString("/sys/class/tty/console/active")) {
		f, err := os.OpenFile("/dev/"+name, os.O_WRONLY|unix.O_NOCTTY, 0)
		if err != nil {
			continue
		}
		c.add(f, "\r\n")
	}
	// The kernel log gets the lines too, at debug level, so that the kernel
	// does not print them on the consoles a second time.
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		c.add(prefixed{f}, "\n")
	}
	return c
}

func consoleNames(active string) []string {
	names := strings.Fields(active)
	if len(names) == 0 {
		return []string{"console"}
	}
	return names
}

type prefixed struct{ f *os.File }

func (p prefixed) Write(b []byte) (int, error) { return p.f.Write(append([]byte("<7>"), b...)) }
func (p prefixed) Close() error                { return p.f.Close() }

func (c *console) add(w interface {
	Write([]byte) (int, error)
	Close() error
}, end string) {
	lines, done := make(chan string, 256), make(chan struct{})
	c.outputs, c.flushed = append(c.outputs, lines), append(c.flushed, done)
	go func() {
		defer close(done)
		defer w.Close()
		for line := range lines {
			_, _ = w.Write([]byte(strings.ReplaceAll(line, "\n", end) + end))
		}
	}()
}

// print prefixes the line with the kernel's uptime. It does not block.
func (c *console) print(line string) {
	line = fmt.Sprintf("[%9.3f] %s", uptime().Seconds(), line)
	for _, out := range c.outputs {
		select {
		case out <- line:
		default:
		}
	}
}

// close waits until all lines are written, for at most two seconds.
func (c *console) close() {
	limit := time.After(2 * time.Second)
	for i, out := range c.outputs {
		close(out)
		select {
		case <-c.flushed[i]:
		case <-limit:
			return
		}
	}
}

func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
