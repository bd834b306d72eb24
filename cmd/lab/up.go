// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pxelab/pxelab/internal/access"
)

type upOptions struct {
	samples string
	timeout time.Duration
	noWait  bool
	// access is the address at which the API server of a cluster that is not the lab's own
	// reaches the manager; empty if it cannot.
	access string
}

// startTimeout is how long the control plane and the manager may each take to
// start on a busy host.
const startTimeout = 3 * time.Minute

func (l *lab) up(ctx context.Context, o upOptions) error {
	chosen, why, err := l.chooseSamples(ctx, o.samples)
	if err != nil {
		return err
	}
	if why != "" {
		l.out.line("%s", why)
	}
	var objects []*unstructured.Unstructured
	if chosen != samplesNone {
		if objects, err = readObjects(l.samplesDir(chosen)); err != nil {
			return err
		}
	}
	if o.timeout == 0 {
		o.timeout = waitLimit(objects)
	}
	c, running, err := l.start(ctx, objects, o.access)
	if err != nil {
		return err
	}
	if o.noWait || len(objects) == 0 {
		l.out.line("the manager is running; not waiting until machines are Ready")
		return nil
	}
	w := newWatch(l.out, c, objects)
	w.alive = func() error { return l.stillRunning(running) }
	w.unobserved = access.NewSocketClient(l.dirs.ManagerSocket()).Unobserved
	waiting, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not Ready after %s", o.timeout))
	defer cancel()
	if err := w.untilReady(waiting); err != nil {
		return err
	}
	return l.printSummary(ctx, c, w)
}

// start starts everything, and returns the cluster and the running programs. Only
// this part holds the lock: "down" works while "up" waits.
func (l *lab) start(ctx context.Context, objects []*unstructured.Unstructured, address string) (*cluster, map[string]*record, error) {
	unlock, err := l.lock()
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	running := map[string]*record{}
	if l.ownCluster() {
		running[controlPlane], err = l.ensureProgram(ctx, controlPlane, filepath.Join(l.bin, "controlplane"),
			[]string{"serve", "--data-dir", l.dirs.ControlPlane(), "--kubeconfig", l.dirs.Kubeconfig()})
		if err != nil {
			return nil, nil, err
		}
	} else {
		l.out.line("using the cluster of KUBECONFIG=%s; unset it to use the embedded control plane", os.Getenv("KUBECONFIG"))
	}
	c, err := l.connect(ctx, l.kubeconfig(), running[controlPlane], startTimeout)
	if err != nil {
		return nil, nil, err
	}
	l.out.line("the cluster at %s is ready", c.config.Host)
	if err := l.applyCRDs(ctx, c); err != nil {
		return nil, nil, err
	}
	if running[manager], err = l.ensureManager(ctx, c, address); err != nil {
		return nil, nil, err
	}
	return c, running, l.createSamples(ctx, c, objects)
}

// kubeconfigFlag is the manager's flag for the cluster. A manager without it uses the
// cluster of KUBECONFIG.
const kubeconfigFlag = "--kubeconfig"

// ownAccess is where the manager listens for the API server of the lab's own cluster.
const ownAccess = "127.0.0.1:0"

// ensureManager starts the manager, and waits until it is reachable on its socket and, at
// the given address of the access API, through the cluster.
func (l *lab) ensureManager(ctx context.Context, c *cluster, address string) (*record, error) {
	args := []string{
		"--data-dir", l.dirs.Data, "--runtime-dir", l.dirs.Runtime,
		"--images-dir", l.dirs.Images(), "--programs-dir", l.bin,
	}
	if l.ownCluster() {
		args = append(args, kubeconfigFlag, l.dirs.Kubeconfig())
		address = cmp.Or(address, ownAccess)
	}
	if address != "" {
		args = append(args, "--access-bind-address", address)
	} else {
		l.out.line("\"kubectl lab\" cannot reach the machines: set --access-address to an address of this host that the cluster reaches")
	}
	r, err := l.ensureProgram(ctx, manager, filepath.Join(l.bin, "manager"), args)
	if err != nil {
		return nil, err
	}
	remote, err := access.NewClient(c.config)
	if err != nil {
		return nil, err
	}
	return r, l.until(ctx, manager, r, startTimeout, func(ctx context.Context) (bool, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", l.dirs.ManagerSocket())
		if err != nil {
			return false, err
		}
		if err := conn.Close(); err != nil || address == "" {
			return err == nil, err
		}
		err = remote.Available(ctx)
		return err == nil, err
	})
}

// stillRunning returns an error if a started program has exited.
func (l *lab) stillRunning(programs map[string]*record) error {
	var errs []error
	for name, r := range programs {
		now, err := l.running(name)
		if err == nil && now == nil {
			err = fmt.Errorf("the %s has exited; see %s, then run \"make up\" again", name, r.Log)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// printSummary prints how long each phase took, and the next commands to run, for a few
// targets if there are many.
func (l *lab) printSummary(ctx context.Context, c *cluster, w *watch) error {
	targets, more := shortened(w.targets())
	program := filepath.Join(l.bin, "kubectl-lab")
	args := []string{"timeline", "--namespace", c.namespace}
	if l.ownCluster() {
		args = append(args, "--kubeconfig", l.dirs.Kubeconfig())
	}
	cmd := exec.CommandContext(ctx, program, append(args, targets...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	fmt.Println()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("printing the timeline: %w", err)
	}
	fmt.Print(more)
	verb, targets := "ssh", w.virtual()
	var text strings.Builder
	text.WriteString("\nThe lab is up. Log in with\n\n")
	if len(targets) == 0 {
		text.Reset()
		text.WriteString("\nThe lab is up. Its targets are simulated; show what one has printed with\n\n")
		verb, targets = "logs", w.targets()
	}
	if l.ownCluster() {
		text.WriteString("  export KUBECONFIG=$(make -s kubeconfig)\n")
	}
	targets, more = shortened(targets)
	for _, t := range targets {
		fmt.Fprintf(&text, "  bin/kubectl-lab %s %s\n", verb, t)
	}
	text.WriteString(more)
	text.WriteString("\nand list the objects with\n\n  kubectl get provisioningservers,bootprofiles,baremetaltargets\n")
	fmt.Print(text.String())
	return nil
}
