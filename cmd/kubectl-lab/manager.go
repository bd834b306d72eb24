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

// What "make deploy" makes (config/default).
const (
	managerNamespace  = "pxelab-system"
	accessPortName    = "access"
	managerLabel      = "app.kubernetes.io/name"
	managerLabelValue = "pxelab"
)

// managerPlace is where the manager of a cluster's labs is: in a pod, or a
// process of this host.
type managerPlace struct {
	socket string // of a process; empty for a pod
	pod    types.NamespacedName
	port   int
}

// findManager looks for the manager in the cluster, then on this host.
func (a *app) findManager(ctx context.Context) (managerPlace, error) {
	if a.socket != "" {
		socket, err := filepath.Abs(a.socket)
		return managerPlace{socket: socket}, err
	}
	c, err := a.newClient()
	if err != nil {
		return managerPlace{}, err
	}
	place, err := managerPod(ctx, c)
	if err != nil || place.pod.Name != "" {
		return place, err
	}
	dirs, err := paths.Default()
	return managerPlace{socket: dirs.ManagerSocket()}, err
}

// managerPod is the manager's pod; a zero place when the cluster has none that
// this user may see.
func managerPod(ctx context.Context, c client.Client) (managerPlace, error) {
	var pods corev1.PodList
	labels := client.MatchingLabels{managerLabel: managerLabelValue}
	err := c.List(ctx, &pods, labels)
	if apierrors.IsForbidden(err) {
		err = c.List(ctx, &pods, labels, client.InNamespace(managerNamespace))
	}
	if apierrors.IsForbidden(err) {
		return managerPlace{}, nil
	}
	if err != nil {
		return managerPlace{}, fmt.Errorf("looking for the manager in the cluster: %w", err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
			continue
		}
		if port, ok := accessPort(pod); ok {
			return managerPlace{pod: client.ObjectKeyFromObject(pod), port: port}, nil
		}
	}
	if n := len(pods.Items); n > 0 {
		pod := &pods.Items[n-1]
		return managerPlace{}, fmt.Errorf("the manager's pod %s/%s is %s: see kubectl -n %[1]s describe pod %[2]s", pod.Namespace, pod.Name, pod.Status.Phase)
	}
	return managerPlace{}, nil
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

// manager is the client of the manager's access API.
func (a *app) manager(ctx context.Context) (*access.Client, error) {
	place, err := a.findManager(ctx)
	if err != nil {
		return nil, err
	}
	if place.socket != "" {
		return access.NewClient(place.socket), nil
	}
	config, err := a.config.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	return &access.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		return forward(ctx, config, place.pod, place.port)
	}}, nil
}

// arguments are what this program needs to be told to find the same manager
// when ssh runs it. A pod may have another name by then, so that it is looked
// for again; credentials stay in the kubeconfig.
func (p managerPlace) arguments(flags *pflag.FlagSet) []string {
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
