// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// printer writes lines prefixed with the elapsed time. On a terminal it keeps a
// live status line below them.
type printer struct {
	mu       sync.Mutex
	out      *os.File
	terminal bool
	start    time.Time
	live     string
}

func newPrinter(out *os.File) *printer {
	return &printer{out: out, terminal: term.IsTerminal(int(out.Fd())), start: time.Now()}
}

// line prints a permanent line.
func (p *printer) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	fmt.Fprintf(p.out, "[%4.0f s] %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
	p.draw()
}

// status replaces the live line; "" removes it. Without a terminal it does
// nothing.
func (p *printer) status(text string) {
	if !p.terminal {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	p.live = text
	p.draw()
}

func (p *printer) erase() {
	if p.terminal && p.live != "" {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

func (p *printer) draw() {
	if !p.terminal || p.live == "" {
		return
	}
	text := fmt.Sprintf("[%4.0f s] %s", time.Since(p.start).Seconds(), p.live)
	// A wrapped line could not be erased.
	if width, _, err := term.GetSize(int(p.out.Fd())); err == nil && len(text) >= width && width > 4 {
		text = text[:width-4] + "..."
	}
	fmt.Fprint(p.out, text)
}
