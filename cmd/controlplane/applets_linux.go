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

// nodeApplets are what a cluster's node needs besides, which makes this binary
// all of Kubernetes on a node image (hack/kind/node). Nodes are Linux.
func nodeApplets() applet.Table {
	return applet.Table{
		"kube-controller-manager": {About: "kube-controller-manager as upstream ships it", Run: func([]string) int {
			return cli.Run(controllermanagerapp.NewControllerManagerCommand())
		}},
		"kube-scheduler": {About: "kube-scheduler as upstream ships it", Run: func([]string) int {
			return cli.Run(schedulerapp.NewSchedulerCommand())
		}},
		"kube-proxy": {About: "kube-proxy as upstream ships it", Run: func([]string) int {
			return cli.Run(proxyapp.NewProxyCommand())
		}},
		"kubelet": {About: "kubelet as upstream ships it", Run: func([]string) int {
			return cli.Run(kubeletapp.NewKubeletCommand(context.Background()))
		}},
		"kubeadm": {About: "kubeadm as upstream ships it", Run: func([]string) int {
			kubeadmerrors.HandleError(kubeadmapp.Run())
			return 0
		}},
	}
}
