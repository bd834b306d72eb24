// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// limits restrict one run of qemu-img.
type limits struct {
	timeout  time.Duration
	fileSize int64 // bytes of the largest file that it may write
	files    files
}

// files are the files that a run may open in addition to system files.
type files struct {
	read, write []string
	program     string
}

const (
	inspectTimeout = time.Minute
	// killDelay is how long qemu-img may take to remove its output after SIGTERM.
	killDelay  = 3 * time.Second
	maxMessage = 1024
	maxOutput  = 1 << 20
)

// limitScript sets the resource limits before it executes qemu-img, so that they
// apply from the start. It ignores limits that the system does not support
// (macOS has none on memory); the caller's time limit always applies.
const limitScript = `ulimit -c 0; ulimit -t "$1" 2>/dev/null; ulimit -v "$2" 2>/dev/null; ulimit -f "$3" 2>/dev/null; shift 3; exec "$@"`

// run runs qemu-img to completion. It writes the standard output to progress or,
// if progress is nil, returns it.
func (t *Tool) run(ctx context.Context, l limits, progress io.Writer, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.timeout, errTimeout)
	defer cancel()
	argv := append([]string{"-c", limitScript, "sh",
		strconv.Itoa(4 * max(1, int(l.timeout.Seconds()))), // CPU time of several threads
		strconv.FormatInt(t.opts.MaxMemory/1024, 10),
		strconv.FormatInt(l.fileSize/512+1, 10),
		t.opts.Binary}, args...)
	cmd := exec.CommandContext(ctx, "/bin/sh", argv...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}
	stdout, stderr := &limited{max: maxOutput}, &limited{max: maxMessage}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if progress != nil {
		cmd.Stdout = progress
	}
	l.files.program = t.opts.Binary
	err := startConfined(cmd, l.files)
	if err == nil {
		err = cmd.Wait()
	}
	switch cause := context.Cause(ctx); {
	case err == nil:
		return stdout.Bytes(), nil
	case errors.Is(cause, errTimeout):
		return nil, failf(ReasonTimeout, err, "qemu-img %s did not finish within %s", args[0], l.timeout)
	case cause != nil:
		return nil, cause
	}
	return nil, &toolError{command: args[0], message: strings.TrimSpace(stderr.String()), err: err}
}

var errTimeout = errors.New("qemu-img exceeded its time limit")

// toolError is a run of qemu-img that failed, unless it timed out or was
// canceled.
type toolError struct {
	command string
	message string
	err     error
}

func (e *toolError) Error() string {
	msg := "qemu-img " + e.command + ": " + e.err.Error()
	if e.message != "" {
		msg += ": " + e.message
	}
	return msg
}

func (e *toolError) Unwrap() error { return e.err }

// limited keeps the first max bytes and discards the rest.
type limited struct {
	bytes.Buffer
	max int
}

func (l *limited) Write(b []byte) (int, error) {
	if room := l.max - l.Len(); room > 0 {
		l.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

// percents parses the progress that qemu-img -p prints: repeated
// "    (12.34/100%)\r".
type percents struct {
	total  int64
	report func(done, total int64)
	line   []byte
}

func (p *percents) Write(b []byte) (int, error) {
	for _, c := range b {
		switch {
		case c == '\r' || c == '\n':
			if s, _, ok := strings.Cut(strings.Trim(string(p.line), " ("), "/100%"); ok {
				if v, err := strconv.ParseFloat(s, 64); err == nil && v >= 0 && v <= 100 {
					p.report(int64(v/100*float64(p.total)), p.total)
				}
			}
			p.line = p.line[:0]
		case len(p.line) < 64:
			p.line = append(p.line, c)
		}
	}
	return len(b), nil
}

// safePath returns an absolute path, which qemu-img can take neither for an
// option nor for a protocol ("nbd:", "json:").
func safePath(path string) (string, error) {
	p, err := filepath.Abs(path)
	if err != nil || strings.ContainsRune(p, 0) {
		return "", failf(ReasonInvalid, err, "%q is not a valid path", path)
	}
	return p, nil
}
