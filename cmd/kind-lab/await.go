// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	pollInterval   = 300 * time.Millisecond
	requestTimeout = 10 * time.Second
)

// waitReady blocks until the node is Ready and the components that every cluster
// needs have rolled out. A pod on the pod network that starts before kube-proxy
// works would look for Services outside the cluster, and cache the failure.
//
// Status that was reported before started, the node's start, is ignored.
func (a *app) waitReady(ctx context.Context, started time.Time) error {
	config, err := clientcmd.BuildConfigFromFlags("", a.kubeconfig())
	if err != nil {
		return err
	}
	config.Timeout = requestTimeout
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	last := ""
	for {
		missing, err := firstNotReady(ctx, client, started)
		if err != nil {
			missing = err.Error()
		}
		if missing == "" {
			return nil
		}
		if missing != last && err == nil {
			a.logf("waiting for %s", missing)
		}
		last = missing
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s of the cluster %s: %w; collect its logs with \"kind-lab logs DIR\"", missing, a.name, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

// firstNotReady returns the first component that is not ready, or "".
func firstNotReady(ctx context.Context, client kubernetes.Interface, started time.Time) (string, error) {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	if len(nodes.Items) == 0 {
		return "a node", nil
	}
	for _, node := range nodes.Items {
		if !nodeReady(node) {
			return "node " + node.Name, nil
		}
	}
	if old, err := stalePod(ctx, client, started); err != nil || old != "" {
		return old, err
	}
	// In the order of their dependencies.
	sets, err := client.AppsV1().DaemonSets("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	proxy := false
	for _, set := range sets.Items {
		proxy = proxy || set.Name == "kube-proxy"
		if !daemonSetReady(set) {
			return set.Name, nil
		}
	}
	if !proxy {
		return "kube-proxy", nil
	}
	deployments, err := client.AppsV1().Deployments("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	dns := false
	for _, deployment := range deployments.Items {
		dns = dns || deployment.Name == "coredns"
		if !deploymentReady(deployment) {
			return deployment.Name, nil
		}
	}
	if !dns {
		return "coredns", nil
	}
	return "", nil
}

// stalePod returns a pod whose status reports it as running but was
// reported before the node was started, or "".
func stalePod(ctx context.Context, client kubernetes.Interface, started time.Time) (string, error) {
	if started.IsZero() {
		return "", nil
	}
	pods, err := client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, pod := range pods.Items {
		for _, container := range pod.Status.ContainerStatuses {
			// The API's timestamps have a resolution of a second.
			if container.State.Running == nil || container.State.Running.StartedAt.Time.Before(started.Truncate(time.Second)) {
				return pod.Name, nil
			}
		}
	}
	return "", nil
}

func nodeReady(node corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func daemonSetReady(set appsv1.DaemonSet) bool {
	s := set.Status
	return s.ObservedGeneration >= set.Generation && s.DesiredNumberScheduled > 0 &&
		s.UpdatedNumberScheduled == s.DesiredNumberScheduled && s.NumberReady == s.DesiredNumberScheduled
}

func deploymentReady(d appsv1.Deployment) bool {
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	s := d.Status
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == want && s.ReadyReplicas == want
}
