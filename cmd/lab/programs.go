// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/pxelab/pxelab/internal/process"
)

const (
	controlPlane = "controlplane"
	manager      = "manager"
)

// record is the on-disk record of a background program.
type record struct {
	process.Identity
	Path string   `json:"path"`
	Args []string `json:"args"`
	// Digest is the digest of the executable, which detects a new build.
	Digest string `json:"digest"`
	Log    string `json:"log"`
	// LogStart is the size of the log when the program was started.
	LogStart  int64     `json:"logStart"`
	StartedAt time.Time `json:"startedAt"`
}

func (l *lab) recordPath(name string) string { return filepath.Join(l.dirs.Records(), name+".json") }

// running returns the record of a program, or nil if it is not running.
func (l *lab) running(name string) (*record, error) {
	r, err := l.recorded(name)
	if err != nil || r == nil || !process.Alive(r.Identity) {
		return nil, err
	}
	return r, nil
}

// recorded returns the record of a program that runs, or that has ended without being
// stopped; nil if there is none.
func (l *lab) recorded(name string) (*record, error) {
	text, err := os.ReadFile(l.recordPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record of the %s: %w", name, err)
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("reading %s: %w; check whether the %s is running, stop it, and remove the file", l.recordPath(name), err, name)
	}
	return &r, nil
}

// ensureProgram makes a program run in the background with the given arguments.
// It restarts a running program whose executable or arguments have changed.
func (l *lab) ensureProgram(ctx context.Context, name, path string, args []string) (*record, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("finding the %s: %w; build it with \"make up\"", name, err)
	}
	digest, err := fileDigest(path)
	if err != nil {
		return nil, fmt.Errorf("reading the %s: %w", name, err)
	}
	old, err := l.running(name)
	if err != nil {
		return nil, err
	}
	if old != nil {
		if old.Digest == digest && fmt.Sprint(old.Args) == fmt.Sprint(args) {
			l.out.line("the %s is already running (process %d)", name, old.PID)
			return old, nil
		}
		l.out.line("the %s has changed; restarting it", name)
		if err := l.stopProgram(ctx, name); err != nil {
			return nil, err
		}
	}
	r := &record{Path: path, Args: args, Digest: digest, Log: filepath.Join(l.dirs.Logs(), name+".log"), StartedAt: time.Now()}
	if info, err := os.Stat(r.Log); err == nil {
		r.LogStart = info.Size()
	}
	if r.Identity, err = process.Start(process.Command{Path: path, Args: args, Log: r.Log}); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = renameio.WriteFile(l.recordPath(name), text, 0o600)
	}
	if err != nil {
		// Without a record no later command would find the process.
		_ = process.Signal(r.Identity, syscall.SIGKILL)
		return nil, fmt.Errorf("recording the %s: %w", name, err)
	}
	l.out.line("started the %s (process %d), log file %s", name, r.PID, r.Log)
	return r, nil
}

func fileDigest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// stopTimeout is how long a program may take to exit after SIGTERM.
const stopTimeout = 60 * time.Second

// stopProgram stops a program and waits until it has exited. It is idempotent.
func (l *lab) stopProgram(ctx context.Context, name string) error {
	r, err := l.running(name)
	if err != nil {
		return err
	}
	if r == nil {
		return l.forget(name)
	}
	l.out.line("stopping the %s (process %d)", name, r.PID)
	if err := terminate(ctx, r.Identity, stopTimeout); err != nil {
		return fmt.Errorf("stopping the %s: %w", name, err)
	}
	return l.forget(name)
}

func (l *lab) forget(name string) error {
	if err := os.Remove(l.recordPath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the record of the %s: %w", name, err)
	}
	return nil
}

// terminate sends SIGTERM to a process, and SIGKILL if it does not exit within
// timeout.
func terminate(ctx context.Context, id process.Identity, timeout time.Duration) error {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := process.Signal(id, sig); errors.Is(err, process.ErrGone) {
			return nil
		} else if err != nil {
			return err
		}
		waiting, cancel := context.WithTimeout(ctx, timeout)
		_, err := process.Wait(waiting, id)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("process %d did not exit, even after SIGKILL", id.PID)
}

// until polls done four times a second until it returns true. It fails when the
// program exits first, and then quotes the end of the program's log.
func (l *lab) until(ctx context.Context, name string, r *record, timeout time.Duration, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done(ctx)
		if ok {
			return nil
		}
		if r != nil && !process.Alive(r.Identity) {
			return fmt.Errorf("the %s has exited; end of %s:\n%s", name, r.Log, process.Tail(r.Log, r.LogStart, 2000))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the %s was not ready after %s: %w", name, timeout, errors.Join(err, context.Cause(ctx)))
		case <-tick.C:
		}
	}
}
