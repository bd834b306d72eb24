// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// maxLine bounds a line on the serial port, in bytes: parts of it come from servers.
const maxLine = 1024

// serial is the machine's first serial port. An error of the writer loses the output,
// as a port without a listener does.
type serial struct {
	mu sync.Mutex
	w  io.Writer
}

func newSerial(w io.Writer) *serial {
	if w == nil {
		w = io.Discard
	}
	return &serial{w: w}
}

// print writes text as it is.
func (s *serial) print(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.w, text)
}

// line writes one line.
func (s *serial) line(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\x1b' && r != '\t' {
			return -1
		}
		return r
	}, text)
	s.print(text[:min(len(text), maxLine)] + "\r\n")
}

// kernelLine writes a line with the kernel's time stamp.
func (g *Guest) kernelLine(format string, args ...any) {
	g.serial.line("[%12.6f] %s", g.uptime().Seconds(), fmt.Sprintf(format, args...))
}

// installerLine writes a line as the installer does, whose time stamps have
// milliseconds.
func (g *Guest) installerLine(line string) {
	g.serial.line("[%9.3f] %s", g.uptime().Seconds(), line)
}

// printShutdown writes what a system prints that shuts down.
func (g *Guest) printShutdown() {
	g.serial.line("[  OK  ] Reached target shutdown.target - System Shutdown.")
	g.serial.line("[  OK  ] Reached target poweroff.target - System Power Off.")
	g.kernelLine("reboot: Power down")
}
