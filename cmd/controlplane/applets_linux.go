// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"k8s.io/component-base/cli"
	controllermanagerapp "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxyapp "k8s.io/kubernetes/cmd/kube-proxy/app"
	schedulerapp "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubeadmapp "k8s.io/kubernetes/cmd/kubeadm/app"
	kubeadmerrors "k8s.io/kubernetes/cmd/kubeadm/app/util/errors"
	kubeletapp "k8s.io/kubernetes/cmd/kubelet/app"

	"github.com/pxelab/pxelab/cmd/controlplane/internal/applet"
)

// nodeApplets returns the other components of a cluster node, which make this
// binary all of Kubernetes on a node image (images/kind-node). Nodes run Linux.
func nodeApplets() applet.Table {
	return applet.Table{
		"kube-controller-manager": {About: "Run the unmodified kube-controller-manager", Run: func([]string) int {
			return cli.Run(controllermanagerapp.NewControllerManagerCommand())
		}},
		"kube-scheduler": {About: "Run the unmodified kube-scheduler", Run: func([]string) int {
			return cli.Run(schedulerapp.NewSchedulerCommand())
		}},
		"kube-proxy": {About: "Run the unmodified kube-proxy", Run: func([]string) int {
			return cli.Run(proxyapp.NewProxyCommand())
		}},
		"kubelet": {About: "Run the unmodified kubelet", Run: func([]string) int {
			return cli.Run(kubeletapp.NewKubeletCommand(context.Background()))
		}},
		"kubeadm": {About: "Run the unmodified kubeadm", Run: func([]string) int {
			kubeadmerrors.HandleError(kubeadmapp.Run())
			return 0
		}},
	}
}
