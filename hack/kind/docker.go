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

	"github.com/pxelab/pxelab/hack/kind/internal/engine"
)

// docker is the engine that is used, reached by its client.
type docker struct {
	// there is unset for a client that has no engine to talk to.
	there bool
	// own is set when the engine is ours.
	own *engine.Engine
}

// use makes this process, and kind's code in it, talk to the engine.
func (d docker) use(network string) error {
	// kind makes the network and leaves it; one with a name of our own can be
	// removed.
	settings := map[string]string{"KIND_EXPERIMENTAL_DOCKER_NETWORK": network}
	if d.own != nil {
		settings["DOCKER_HOST"] = "unix://" + d.own.Socket()
		settings["DOCKER_CONTEXT"] = "" // it would win over the host
		settings["DOCKER_TLS_VERIFY"] = ""
	}
	var errs []error
	for name, value := range settings {
		errs = append(errs, os.Setenv(name, value))
	}
	return errors.Join(errs...)
}

// run calls Docker's client and returns what it printed.
func (d docker) run(ctx context.Context, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	// Interrupted by its context, which asks it to end instead of killing it.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// lines are the non-empty lines that Docker's client prints.
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

// answers tells whether an engine does that the user's settings name.
func answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := docker{}.run(ctx, "version", "--format={{.Server.Version}}")
	return err
}
