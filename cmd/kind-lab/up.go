// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/kind/pkg/cluster"
)

// Paths on the node of the volumes in config/kind: the lab's data, and the image
// folder of this host.
const (
	nodeData   = "/var/lib/pxelab"
	nodeImages = "/var/lib/pxelab-images"
)

// finishedMark is a file on the node of a completely created cluster.
const finishedMark = "/kind/pxelab-finished"

// clusterLabel is the label by which kind identifies a cluster's containers.
const clusterLabel = "io.x-k8s.kind.cluster"

type upOptions struct {
	nodeImage string
	publish   []string
	timeout   time.Duration
}

// lock ensures that only one command at a time changes the cluster. It does not
// block.
func (a *app) lock() (unlock func(), err error) {
	dir := filepath.Join(a.dirs.Data, "kind")
	if err := errors.Join(a.dirs.Ensure(), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(dir, a.name+".lock"), flock.SetPermissions(0o600))
	held, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking the cluster: %w", err)
	}
	if !held {
		return nil, fmt.Errorf("another command is changing the cluster %s; wait until it has finished", a.name)
	}
	return func() { _ = lock.Unlock() }, nil
}

func (a *app) provider() *cluster.Provider {
	return cluster.NewProvider(cluster.ProviderWithDocker(), cluster.ProviderWithLogger(logger{a}))
}

// up creates or restarts the cluster and returns when it is ready.
func (a *app) up(ctx context.Context, o upOptions) error {
	ports, err := parsePorts(o.publish)
	if err != nil {
		return err
	}
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	release, err := a.useEngine(ctx)
	if err != nil {
		return err
	}
	defer release()
	d, err := a.engine(ctx)
	if err != nil {
		return err
	}
	exists, started, err := a.find(ctx, d)
	if err != nil {
		return err
	}
	if !exists {
		if err := a.create(ctx, d, o.nodeImage, ports); err != nil {
			return err
		}
	}
	if err := a.waitReady(ctx, started); err != nil {
		return err
	}
	a.logf("the cluster %s is ready; run \"export KUBECONFIG=%s\"", a.name, a.kubeconfig())
	return nil
}

// find reports whether the cluster exists, starts its node if necessary (a reboot
// of the host stops it, for example), and returns the node's start time. It
// removes an incompletely created cluster.
func (a *app) find(ctx context.Context, d *docker) (exists bool, started time.Time, err error) {
	nodes, err := a.containers(ctx, d)
	if err != nil || len(nodes) == 0 {
		return false, started, err
	}
	if _, err := d.run(ctx, append([]string{"start"}, nodes...)...); err != nil {
		return false, started, err
	}
	if !a.finished() {
		a.logf("the cluster %s is incomplete; creating it again", a.name)
		return false, started, a.remove()
	}
	if err := a.writeKubeconfig(); err != nil {
		return false, started, err
	}
	since, err := d.run(ctx, "inspect", "--format={{.State.StartedAt}}", nodes[0])
	if err == nil {
		started, err = time.Parse(time.RFC3339Nano, since)
	}
	if err != nil {
		return false, started, fmt.Errorf("reading the node's start time: %w", err)
	}
	a.logf("the cluster %s exists", a.name)
	return true, started, nil
}

// containers returns the IDs of the cluster's node containers.
func (a *app) containers(ctx context.Context, d *docker) ([]string, error) {
	return d.lines(ctx, "ps", "--all", "--quiet", "--no-trunc", "--filter", "label="+clusterLabel+"="+a.name)
}

func (a *app) writeKubeconfig() error {
	if err := os.MkdirAll(a.dir(), 0o700); err != nil {
		return err
	}
	text, err := a.provider().KubeConfig(a.name, false)
	if err != nil {
		return err
	}
	return os.WriteFile(a.kubeconfig(), []byte(text), 0o600)
}

func (a *app) create(ctx context.Context, d *docker, nodeImage string, ports []v1alpha4.PortMapping) error {
	image, err := a.ensureNodeImage(ctx, d, nodeImage)
	if err != nil {
		return err
	}
	if err := a.ensureNetwork(ctx, d); err != nil {
		return err
	}
	mounts, err := a.mounts()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(a.dir(), 0o700); err != nil {
		return err
	}
	a.logf("creating the cluster %s from %s", a.name, image)
	config := &v1alpha4.Cluster{
		TypeMeta: v1alpha4.TypeMeta{Kind: "Cluster", APIVersion: "kind.x-k8s.io/v1alpha4"},
		Name:     a.name,
		Nodes: []v1alpha4.Node{{
			Role:              v1alpha4.ControlPlaneRole,
			Image:             image,
			ExtraMounts:       mounts,
			ExtraPortMappings: ports,
		}},
		Networking: v1alpha4.Networking{APIServerAddress: "127.0.0.1", PodSubnet: "10.244.0.0/16", ServiceSubnet: "10.96.0.0/16"},
	}
	// kind does not support contexts: after an interrupt, wait for its current
	// step to end.
	created := make(chan error, 1)
	go func() {
		created <- a.provider().Create(a.name,
			cluster.CreateWithV1Alpha4Config(config),
			cluster.CreateWithKubeconfigPath(a.kubeconfig()),
			cluster.CreateWithDisplayUsage(false),
			cluster.CreateWithDisplaySalutation(false))
	}()
	select {
	case err = <-created:
	case <-ctx.Done():
		// Removing the container ends the step.
		err = errors.Join(ctx.Err(), a.remove(), <-created)
	}
	if err == nil {
		err = errors.Join(a.writeKubeconfig(), a.finish())
	}
	if err != nil {
		return fmt.Errorf("creating the cluster %s: %w", a.name, errors.Join(err, a.remove()))
	}
	return nil
}

// finish creates the directory that a local volume requires, and then the mark of
// a completely created cluster. The mark is on the node: if this program is
// killed, its commands on the node continue and may result in a running cluster.
func (a *app) finish() error {
	if err := a.onNodes("mkdir", "-p", nodeData); err != nil {
		return err
	}
	return a.onNodes("touch", finishedMark)
}

func (a *app) finished() bool { return a.onNodes("test", "-e", finishedMark) == nil }

func (a *app) onNodes(command string, args ...string) error {
	found, err := a.provider().ListInternalNodes(a.name)
	for _, node := range found {
		err = errors.Join(err, node.Command(command, args...).Run())
	}
	if err != nil {
		return fmt.Errorf("running %s on the node: %w", command, err)
	}
	return nil
}

// ensureNetwork creates the network in the private engine, to give its bridge a
// known name. In other engines kind creates it.
func (a *app) ensureNetwork(ctx context.Context, d *docker) error {
	if d.own == nil {
		return nil
	}
	existing, err := d.lines(ctx, "network", "ls", "--quiet", "--filter", "name=^"+a.network()+"$")
	if err != nil || len(existing) > 0 {
		return err
	}
	_, err = d.run(ctx, "network", "create", "--driver=bridge",
		"--opt=com.docker.network.bridge.name="+d.own.Bridge(a.name), a.network())
	return err
}

// mounts returns the node's mounts of this host: the lab's image folder, and the
// devices for hardware virtualization and bridges.
func (a *app) mounts() ([]v1alpha4.Mount, error) {
	// The manager's pod reads the folder as another user.
	images := a.dirs.Images()
	if err := errors.Join(os.MkdirAll(images, 0o755), os.Chmod(images, 0o755)); err != nil {
		return nil, err
	}
	mounts := []v1alpha4.Mount{{HostPath: images, ContainerPath: nodeImages, Readonly: true}}
	for _, device := range []string{"/dev/kvm", "/dev/net/tun"} {
		if _, err := os.Stat(device); err == nil {
			mounts = append(mounts, v1alpha4.Mount{HostPath: device, ContainerPath: device})
		}
	}
	return mounts, nil
}

// parsePorts parses [ADDRESS:]HOSTPORT:NODEPORT.
func parsePorts(texts []string) ([]v1alpha4.PortMapping, error) {
	var ports []v1alpha4.PortMapping
	for _, text := range texts {
		cut := strings.LastIndex(text, ":")
		if cut < 0 {
			return nil, fmt.Errorf("parsing --publish %s: want [ADDRESS:]HOSTPORT:NODEPORT", text)
		}
		address, host := "127.0.0.1", text[:cut]
		if a, port, err := net.SplitHostPort(host); err == nil {
			address, host = a, port
		}
		hostPort, err := strconv.ParseUint(host, 10, 16)
		nodePort, nodeErr := strconv.ParseUint(text[cut+1:], 10, 16)
		if err := errors.Join(err, nodeErr); err != nil {
			return nil, fmt.Errorf("parsing --publish %s: %w", text, err)
		}
		if net.ParseIP(address) == nil || nodePort == 0 {
			return nil, fmt.Errorf("parsing --publish %s: want [ADDRESS:]HOSTPORT:NODEPORT", text)
		}
		ports = append(ports, v1alpha4.PortMapping{ListenAddress: address, HostPort: int32(hostPort), ContainerPort: int32(nodePort)})
	}
	return ports, nil
}
