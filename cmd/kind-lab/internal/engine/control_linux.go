// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"github.com/vishvananda/netlink"

	"github.com/pxelab/pxelab/cmd/kind-lab/internal/ociruntime"
	"github.com/pxelab/pxelab/internal/process"
)

const (
	// startTimeout is how long an engine may take to respond.
	startTimeout = 2 * time.Minute
	// stopTimeout is how long it may take to stop its containers and exit.
	stopTimeout = time.Minute
	// cgroupTimeout is how long killed processes may stay in a cgroup.
	cgroupTimeout = 20 * time.Second
	poll          = 100 * time.Millisecond
)

// hidden lists directories that dockerd and its containerd use regardless of their
// configuration. The engine mounts empty file systems over them, in its own mount
// namespace.
var hidden = []string{"/run/containerd", "/run/docker", "/opt/containerd"}

// Start starts the engine if necessary and returns when it responds. It requires
// root. It is idempotent, but must not be called concurrently.
func (e Engine) Start(ctx context.Context) error {
	id, alive, err := e.Running()
	if err != nil {
		return err
	}
	if alive {
		// An engine that is being killed still looks alive.
		if err := e.waitReady(ctx, id); err == nil || process.Alive(id) {
			return err
		}
	}
	// Remove what a killed engine left behind.
	if err := e.Stop(ctx); err != nil {
		return err
	}
	var r running
	r.Made, err = e.prepare()
	if err != nil {
		return errors.Join(fmt.Errorf("preparing the engine: %w", err), e.clear(r))
	}
	if r.Identity, err = e.launch(); err == nil {
		err = e.write(r)
	}
	if err == nil {
		err = e.waitReady(ctx, r.Identity)
	}
	if err != nil {
		_ = process.Signal(r.Identity, syscall.SIGKILL)
		return errors.Join(err, e.clear(r))
	}
	return nil
}

// prepare writes the engine's files and returns the directories that it created
// as mount points.
func (e Engine) prepare() (made []string, err error) {
	for _, dir := range []string{e.Dir, e.dataRoot(), e.runDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	for _, dir := range hidden {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			if err := os.MkdirAll(dir, 0o711); err != nil {
				return made, err
			}
			made = append(made, dir)
		}
	}
	// Use a copy, because the running executable may be rebuilt meanwhile.
	self, err := os.Executable()
	if err != nil {
		return made, err
	}
	if err := install(self, e.program()); err != nil {
		return made, err
	}
	major, err := version()
	if err != nil {
		return made, err
	}
	withheld, err := ociruntime.Withheld()
	if err != nil {
		return made, err
	}
	wrapper := ""
	if withheld {
		wrapper = filepath.Join(e.runDir(), ociruntime.Name)
		if err := os.Symlink(e.program(), wrapper); err != nil {
			return made, err
		}
	}
	text, err := json.MarshalIndent(e.daemon(major, wrapper), "", "  ")
	if err != nil {
		return made, err
	}
	return made, renameio.WriteFile(e.config(), text, 0o644)
}

// version returns dockerd's major version.
func version() (int, error) {
	out, err := exec.Command("dockerd", "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("running dockerd --version: %w", err)
	}
	found := regexp.MustCompile(`version (\d+)\.`).FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("parsing dockerd's version: %q contains no version", bytes.TrimSpace(out))
	}
	return strconv.Atoi(string(found[1]))
}

func install(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := renameio.NewPendingFile(to, renameio.WithPermissions(0o755))
	if err != nil {
		return err
	}
	defer func() { _ = target.Cleanup() }()
	if _, err := io.Copy(target, source); err != nil {
		return err
	}
	return target.CloseAtomicallyReplace()
}

// launch starts Init in new PID and mount namespaces.
func (e Engine) launch() (process.Identity, error) {
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		return process.Identity{}, err
	}
	log, err := os.OpenFile(e.Log(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return process.Identity{}, err
	}
	defer log.Close()
	cmd := exec.Command(e.program(), "engine", "init", "--", dockerd, "--config-file", e.config())
	cmd.Dir = "/"
	cmd.Stdout = log
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return process.Identity{}, fmt.Errorf("starting the engine: %w", err)
	}
	id, err := process.Find(cmd.Process.Pid)
	if err != nil {
		_, _ = cmd.Process.Kill(), cmd.Wait()
		return id, fmt.Errorf("starting the engine: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaps it if it exits before this process
	return id, nil
}

// waitReady returns when the engine responds, and fails when it has exited.
func (e Engine) waitReady(ctx context.Context, id process.Identity) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for !e.Answers(ctx) {
		if !process.Alive(id) {
			return fmt.Errorf("the engine exited while starting; end of %s:\n%s", e.Log(), tail(e.Log()))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the engine (process %d) on %s: %w; see %s", id.PID, e.Socket(), ctx.Err(), e.Log())
		case <-time.After(poll):
		}
	}
	return nil
}

// Answers reports whether the engine responds.
func (e Engine) Answers(ctx context.Context) bool {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.Socket())
	}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
	if err != nil {
		return false
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// tail returns the end of a file for an error text.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// Stop stops the engine and everything in it, and returns when nothing but its
// directory is left. It requires root. It is idempotent, but must not be called
// concurrently.
func (e Engine) Stop(ctx context.Context) error {
	r, err := e.read()
	if err != nil || r == nil {
		return err
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := process.Signal(r.Identity, sig); err != nil && !errors.Is(err, process.ErrGone) {
			return fmt.Errorf("stopping the engine: %w", err)
		}
		timeout, cancel := context.WithTimeout(ctx, stopTimeout)
		_, err := process.Wait(timeout, r.Identity)
		cancel()
		if err == nil {
			return e.clear(*r)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("stopping the engine (process %d): %w", r.PID, ctx.Err())
		}
	}
	return fmt.Errorf("stopping the engine: process %d did not exit, even after SIGKILL", r.PID)
}

// clear removes what a stopped engine leaves behind.
func (e Engine) clear(r running) error {
	links, err := netlink.LinkList()
	errs := []error{err}
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, e.bridgePrefix()) {
			errs = append(errs, netlink.LinkDel(link))
		}
	}
	for _, group := range e.cgroups() {
		errs = append(errs, removeCgroup(group))
	}
	errs = append(errs, os.RemoveAll(e.runDir()))
	for _, dir := range slices.Backward(r.Made) {
		// Another process may use it by now, and then it is not empty.
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			errs = append(errs, err)
		}
	}
	if err := os.Remove(e.record()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing the engine's leftovers: %w", err)
	}
	return nil
}

// cgroups returns the engine's existing cgroups: one, or one per hierarchy.
func (e Engine) cgroups() []string {
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		// Glob fails only for a malformed pattern.
		groups, _ := filepath.Glob(filepath.Join(pattern, filepath.Base(e.runDir())))
		found = append(found, groups...)
	}
	return found
}

// removeCgroup removes a cgroup and its descendants. Killed processes stay in a
// cgroup until the kernel has reaped them.
func removeCgroup(group string) error {
	for deadline := time.Now().Add(cgroupTimeout); ; time.Sleep(poll) {
		err := removeTree(group)
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}

func removeTree(group string) error {
	entries, err := os.ReadDir(group)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(group, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(group); err != nil {
		return &fs.PathError{Op: "rmdir", Path: group, Err: err}
	}
	return nil
}
