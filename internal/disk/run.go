// SPDX-License-Identifier: Apache-2.0

package disk

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

// limits of one run of qemu-img.
type limits struct {
	timeout  time.Duration
	fileSize int64 // bytes; the largest file it may write
	files    files
}

// files are all that a run may open beside the system's own.
type files struct {
	read, write []string
	program     string
}

const (
	inspectTimeout = time.Minute
	// killDelay is how long qemu-img has to remove its output when it is told
	// to stop.
	killDelay  = 3 * time.Second
	maxMessage = 1024
	maxOutput  = 1 << 20
)

// limitScript sets limits before qemu-img exists, so there is no moment
// without them. A limit that the system does not know (macOS has none on
// memory) is passed over; the time limit of the caller always holds.
const limitScript = `ulimit -c 0; ulimit -t "$1" 2>/dev/null; ulimit -v "$2" 2>/dev/null; ulimit -f "$3" 2>/dev/null; shift 3; exec "$@"`

// run starts qemu-img and waits for it. progress gets its standard output as
// it comes; without it the output is returned.
func (t *Tool) run(ctx context.Context, l limits, progress io.Writer, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.timeout, errTimeout)
	defer cancel()
	argv := append([]string{"-c", limitScript, "sh",
		strconv.Itoa(4 * max(1, int(l.timeout.Seconds()))), // processor time: it has a few threads
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
		return nil, failf(ReasonTimeout, err, "qemu-img %s did not end within %s", args[0], l.timeout)
	case cause != nil:
		return nil, cause
	}
	return nil, &toolError{command: args[0], message: strings.TrimSpace(stderr.String()), err: err}
}

var errTimeout = errors.New("qemu-img took too long")

// toolError is a run of qemu-img that failed by itself.
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

// limited keeps the first max bytes and swallows the rest.
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

// percents reads what qemu-img -p prints, "    (12.34/100%)\r" again and again.
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

// safePath makes a path that qemu-img takes for nothing but a file: absolute,
// so that it is neither an option nor a protocol ("nbd:", "json:").
func safePath(path string) (string, error) {
	p, err := filepath.Abs(path)
	if err != nil || strings.ContainsRune(p, 0) {
		return "", failf(ReasonInvalid, err, "%q is not a path", path)
	}
	return p, nil
}
