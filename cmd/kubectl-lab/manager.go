// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/paths"
)

// Names that "make deploy" uses (config/default).
const (
	managerNamespace  = "pxelab-system"
	accessPortName    = "access"
	managerLabel      = "app.kubernetes.io/name"
	managerLabelValue = "pxelab"
)

// managerEndpoint is the address of the manager's access API: a port of a pod, or
// the socket of a process on this host.
type managerEndpoint struct {
	socket string // empty for a pod
	pod    types.NamespacedName
	port   int
}

// findManager looks for the manager in the cluster, then on this host.
func (a *app) findManager(ctx context.Context) (managerEndpoint, error) {
	if a.socket != "" {
		socket, err := filepath.Abs(a.socket)
		return managerEndpoint{socket: socket}, err
	}
	c, err := a.newClient()
	if err != nil {
		return managerEndpoint{}, err
	}
	endpoint, err := managerPod(ctx, c)
	if err != nil || endpoint.pod.Name != "" {
		return endpoint, err
	}
	dirs, err := paths.Default()
	return managerEndpoint{socket: dirs.ManagerSocket()}, err
}

// managerPod returns the endpoint of the manager's pod, or a zero endpoint if the
// cluster has none that this user is allowed to list.
func managerPod(ctx context.Context, c client.Client) (managerEndpoint, error) {
	var pods corev1.PodList
	labels := client.MatchingLabels{managerLabel: managerLabelValue}
	err := c.List(ctx, &pods, labels)
	if apierrors.IsForbidden(err) {
		err = c.List(ctx, &pods, labels, client.InNamespace(managerNamespace))
	}
	if apierrors.IsForbidden(err) {
		return managerEndpoint{}, nil
	}
	if err != nil {
		return managerEndpoint{}, fmt.Errorf("looking for the manager in the cluster: %w", err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
			continue
		}
		if port, ok := accessPort(pod); ok {
			return managerEndpoint{pod: client.ObjectKeyFromObject(pod), port: port}, nil
		}
	}
	if n := len(pods.Items); n > 0 {
		pod := &pods.Items[n-1]
		return managerEndpoint{}, fmt.Errorf("the manager's pod %s/%s is %s; see \"kubectl -n %[1]s describe pod %[2]s\"",
			pod.Namespace, pod.Name, pod.Status.Phase)
	}
	return managerEndpoint{}, nil
}

func accessPort(pod *corev1.Pod) (int, bool) {
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name == accessPortName {
				return int(port.ContainerPort), true
			}
		}
	}
	return 0, false
}

// manager returns a client of the manager's access API.
func (a *app) manager(ctx context.Context) (*access.Client, error) {
	endpoint, err := a.findManager(ctx)
	if err != nil {
		return nil, err
	}
	if endpoint.socket != "" {
		return access.NewClient(endpoint.socket), nil
	}
	config, err := a.config.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	return &access.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		return forward(ctx, config, endpoint.pod, endpoint.port)
	}}, nil
}

// arguments returns the flags with which this program finds the same manager when
// ssh runs it. A pod may have been replaced by then, so it is looked up again;
// credentials stay in the kubeconfig.
func (p managerEndpoint) arguments(flags *pflag.FlagSet) []string {
	if p.socket != "" {
		return []string{"--manager-socket", p.socket}
	}
	var arguments []string
	for _, name := range []string{"kubeconfig", "context", "cluster", "user"} {
		if flag := flags.Lookup(name); flag != nil && flag.Value.String() != "" {
			arguments = append(arguments, "--"+name, flag.Value.String())
		}
	}
	return arguments
}
