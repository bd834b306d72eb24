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

// Where the volumes of config/kind are on the node: the lab's data, and the image
// folder of this host.
const (
	nodeData   = "/var/lib/pxelab"
	nodeImages = "/var/lib/pxelab-images"
)

// finishedMark is on a node whose cluster was made to the end.
const finishedMark = "/kind/pxelab-finished"

// clusterLabel is what kind tells a cluster's containers by.
const clusterLabel = "io.x-k8s.kind.cluster"

type upOptions struct {
	nodeImage string
	publish   []string
	timeout   time.Duration
}

// lock makes sure that one command at a time changes the cluster.
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
		return nil, fmt.Errorf("another command is at work on the cluster %s", a.name)
	}
	return func() { _ = lock.Unlock() }, nil
}

func (a *app) provider() *cluster.Provider {
	return cluster.NewProvider(cluster.ProviderWithDocker(), cluster.ProviderWithLogger(logger{a}))
}

// up makes the cluster, or finds it, and returns when it works.
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
	there, started, err := a.find(ctx, d)
	if err != nil {
		return err
	}
	if !there {
		if err := a.create(ctx, d, o.nodeImage, ports); err != nil {
			return err
		}
	}
	if err := a.await(ctx, started); err != nil {
		return err
	}
	a.say("the cluster %s works: export KUBECONFIG=%s", a.name, a.kubeconfig())
	return nil
}

// find tells whether the cluster is there, running, and since when its node does:
// it may have been stopped, by a reboot of the host for one. What an interrupted
// creation left is removed.
func (a *app) find(ctx context.Context, d *docker) (there bool, started time.Time, err error) {
	nodes, err := a.containers(ctx, d)
	if err != nil || len(nodes) == 0 {
		return false, started, err
	}
	if _, err := d.run(ctx, append([]string{"start"}, nodes...)...); err != nil {
		return false, started, err
	}
	if !a.finished() {
		a.say("the cluster %s was not finished: making it anew", a.name)
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
		return false, started, fmt.Errorf("asking since when the node runs: %w", err)
	}
	a.say("the cluster %s is there", a.name)
	return true, started, nil
}

// containers are those of the cluster's nodes, by id.
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
	a.say("making the cluster %s of %s", a.name, image)
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
	// kind takes no context: whoever interrupts this waits for its step to end.
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
		// Without its container the step ends.
		err = errors.Join(ctx.Err(), a.remove(), <-created)
	}
	if err == nil {
		err = errors.Join(a.writeKubeconfig(), a.finish())
	}
	if err != nil {
		return fmt.Errorf("making the cluster %s: %w", a.name, errors.Join(err, a.remove()))
	}
	return nil
}

// finish makes what a local volume wants to find, and then the mark that the
// cluster is whole. The mark is on the node: whoever kills this program does not
// stop what it has the node do, which may well look like a cluster in the end.
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

// ensureNetwork makes the network in an engine of ours, whose bridge then has a
// name that is known. In others kind makes it, as it does for everybody.
func (a *app) ensureNetwork(ctx context.Context, d *docker) error {
	if d.own == nil {
		return nil
	}
	there, err := d.lines(ctx, "network", "ls", "--quiet", "--filter", "name=^"+a.network()+"$")
	if err != nil || len(there) > 0 {
		return err
	}
	_, err = d.run(ctx, "network", "create", "--driver=bridge",
		"--opt=com.docker.network.bridge.name="+d.own.Bridge(a.name), a.network())
	return err
}

// mounts are what the node gets of this host: the lab's image folder, and the
// devices that make machines fast and bridges possible.
func (a *app) mounts() ([]v1alpha4.Mount, error) {
	// The manager's pod reads it as another user, wherever it was made.
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

// parsePorts reads [ADDRESS:]HOSTPORT:NODEPORT.
func parsePorts(texts []string) ([]v1alpha4.PortMapping, error) {
	var ports []v1alpha4.PortMapping
	for _, text := range texts {
		cut := strings.LastIndex(text, ":")
		if cut < 0 {
			return nil, fmt.Errorf("--publish %s: want [ADDRESS:]HOSTPORT:NODEPORT", text)
		}
		address, host := "127.0.0.1", text[:cut]
		if a, port, err := net.SplitHostPort(host); err == nil {
			address, host = a, port
		}
		hostPort, err := strconv.ParseUint(host, 10, 16)
		nodePort, nodeErr := strconv.ParseUint(text[cut+1:], 10, 16)
		if err := errors.Join(err, nodeErr); err != nil {
			return nil, fmt.Errorf("--publish %s: %w", text, err)
		}
		if net.ParseIP(address) == nil || nodePort == 0 {
			return nil, fmt.Errorf("--publish %s: want [ADDRESS:]HOSTPORT:NODEPORT", text)
		}
		ports = append(ports, v1alpha4.PortMapping{ListenAddress: address, HostPort: int32(hostPort), ContainerPort: int32(nodePort)})
	}
	return ports, nil
}
