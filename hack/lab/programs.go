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

// record is a background program as it is kept on disk.
type record struct {
	process.Identity
	Path string   `json:"path"`
	Args []string `json:"args"`
	// Digest is of the program's file, so that a new build is told apart.
	Digest string `json:"digest"`
	Log    string `json:"log"`
	// LogStart is how long the log was when the program was started.
	LogStart  int64     `json:"logStart"`
	StartedAt time.Time `json:"startedAt"`
}

func (l *lab) recordPath(name string) string { return filepath.Join(l.dirs.Records(), name+".json") }

// running is the record of a program that runs; nil when it does not.
func (l *lab) running(name string) (*record, error) {
	text, err := os.ReadFile(l.recordPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record of the %s: %w", name, err)
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s is damaged: look whether the %s runs, stop it, and remove the file: %w", l.recordPath(name), name, err)
	}
	if !process.Alive(r.Identity) {
		return nil, nil
	}
	return &r, nil
}

// ensureProgram makes a program run in the background with these arguments. One
// that was built anew or is to have other arguments is started anew.
func (l *lab) ensureProgram(ctx context.Context, name, path string, args []string) (*record, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("the %s has not been built (\"make up\" builds it): %w", name, err)
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
			l.say.line("the %s runs already (process %d)", name, old.PID)
			return old, nil
		}
		l.say.line("the %s is another than the one that runs: starting it anew", name)
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
		// Without a record nobody would find it again.
		_ = process.Signal(r.Identity, syscall.SIGKILL)
		return nil, fmt.Errorf("recording the %s: %w", name, err)
	}
	l.say.line("started the %s (process %d), which logs to %s", name, r.PID, r.Log)
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

// stopPatience is how long a program may take to end when told to.
const stopPatience = 60 * time.Second

// stopProgram ends a program and returns when it is gone. One that does not
// run is no error.
func (l *lab) stopProgram(ctx context.Context, name string) error {
	r, err := l.running(name)
	if err != nil {
		return err
	}
	if r == nil {
		return l.forget(name)
	}
	l.say.line("stopping the %s (process %d)", name, r.PID)
	if err := endProcess(ctx, r.Identity, stopPatience); err != nil {
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

// endProcess asks a process to end, and kills it when it has not within
// patience.
func endProcess(ctx context.Context, id process.Identity, patience time.Duration) error {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := process.Signal(id, sig); errors.Is(err, process.ErrGone) {
			return nil
		} else if err != nil {
			return err
		}
		waiting, cancel := context.WithTimeout(ctx, patience)
		_, err := process.Wait(waiting, id)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("process %d does not end, not even when killed", id.PID)
}

// until calls done every quarter of a second until it says true. It fails when
// the program ends first, with what it said last.
func (l *lab) until(ctx context.Context, name string, r *record, patience time.Duration, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done(ctx)
		if ok {
			return nil
		}
		if r != nil && !process.Alive(r.Identity) {
			return fmt.Errorf("the %s has ended; its last words in %s:\n%s", name, r.Log, process.Tail(r.Log, r.LogStart, 2000))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the %s is not ready after %s: %w", name, patience, errors.Join(err, context.Cause(ctx)))
		case <-tick.C:
		}
	}
}
