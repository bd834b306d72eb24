// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/pxelab/pxelab/cmd/kind-lab/internal/engine"
)

// docker is a Docker engine, accessed through the docker CLI.
type docker struct {
	// reachable is false if no engine is reachable and only the CLI can be used.
	reachable bool
	// own is set if the engine is the private one.
	own *engine.Engine
}

// use makes this process, and kind's code in it, use the engine.
func (d docker) use(network string) error {
	// kind creates the network but never removes it; with its own name it can
	// be removed here.
	settings := map[string]string{"KIND_EXPERIMENTAL_DOCKER_NETWORK": network}
	if d.own != nil {
		settings["DOCKER_HOST"] = "unix://" + d.own.Socket()
		settings["DOCKER_CONTEXT"] = "" // it would override DOCKER_HOST
		settings["DOCKER_TLS_VERIFY"] = ""
	}
	var errs []error
	for name, value := range settings {
		errs = append(errs, os.Setenv(name, value))
	}
	return errors.Join(errs...)
}

// run runs the docker CLI and returns its output.
func (d docker) run(ctx context.Context, args ...string) (string, error) {
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	// Interrupt the process instead of killing it when the context is done.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("running docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// lines runs the docker CLI and returns the lines of its output.
func (d docker) lines(ctx context.Context, args ...string) ([]string, error) {
	out, err := d.run(ctx, args...)
	if err != nil || out == "" {
		return nil, err
	}
	return strings.Split(out, "\n"), nil
}

func (d docker) hasImage(ctx context.Context, name string) bool {
	_, err := d.run(ctx, "image", "inspect", "--format={{.Id}}", name)
	return err == nil
}

// answers returns an error unless the engine of the user's settings responds.
func answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := docker{}.run(ctx, "version", "--format={{.Server.Version}}")
	return err
}
