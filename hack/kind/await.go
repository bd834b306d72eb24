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

// askEvery is how often the cluster is asked how far it is, and askPatience how
// long it may take to answer.
const (
	askEvery    = 300 * time.Millisecond
	askPatience = 10 * time.Second
)

// await returns when the node is Ready and what every cluster needs has rolled
// out. A pod of the node's network that starts before kube-proxy works would
// look for services outside the cluster, and remember that it failed.
//
// What a node said before it was started does not count.
func (a *app) await(ctx context.Context, started time.Time) error {
	config, err := clientcmd.BuildConfigFromFlags("", a.kubeconfig())
	if err != nil {
		return err
	}
	config.Timeout = askPatience
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	last := ""
	for {
		missing, err := awaited(ctx, client, started)
		if err != nil {
			missing = err.Error()
		}
		if missing == "" {
			return nil
		}
		if missing != last && err == nil {
			a.say("waiting for %s", missing)
		}
		last = missing
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster %s is not ready: %s: %w; \"kind-lab logs DIR\" collects its logs", a.name, missing, ctx.Err())
		case <-time.After(askEvery):
		}
	}
}

// awaited is the first thing that the cluster still lacks; "" for none.
func awaited(ctx context.Context, client kubernetes.Interface, started time.Time) (string, error) {
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
	if old, err := containersFromBefore(ctx, client, started); err != nil || old != "" {
		return old, err
	}
	// In the order in which they depend on each other.
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

// containersFromBefore names a pod that says it runs, but said so before the node
// was started; "" for none.
func containersFromBefore(ctx context.Context, client kubernetes.Interface, started time.Time) (string, error) {
	if started.IsZero() {
		return "", nil
	}
	pods, err := client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, pod := range pods.Items {
		for _, container := range pod.Status.ContainerStatuses {
			// The API knows whole seconds.
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
	wanted := int32(1)
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	s := d.Status
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == wanted && s.ReadyReplicas == wanted
}
