// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

func TestFirstNotReady(t *testing.T) {
	ran := time.Now()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
	unready := node.DeepCopy()
	unready.Status.Conditions[0].Status = corev1.ConditionUnknown
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "p"}, Status: corev1.PodStatus{
		ContainerStatuses: []corev1.ContainerStatus{{
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(ran)}},
		}},
	}}
	proxy := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-proxy", Generation: 1},
		Status:     appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 1, UpdatedNumberScheduled: 1, NumberReady: 1},
	}
	unseen := proxy.DeepCopy()
	unseen.Status = appsv1.DaemonSetStatus{}
	two := int32(2)
	dns := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "coredns", Generation: 1},
		Spec:       appsv1.DeploymentSpec{Replicas: &two},
		Status:     appsv1.DeploymentStatus{ObservedGeneration: 1, UpdatedReplicas: 2, ReadyReplicas: 2},
	}
	half := dns.DeepCopy()
	half.Status.ReadyReplicas = 1

	for name, tt := range map[string]struct {
		objects []runtime.Object
		started time.Time
		want    string
	}{
		"no objects":           {want: "a node"},
		"node not ready":       {objects: []runtime.Object{unready}, want: "node n"},
		"stale pods":           {objects: []runtime.Object{node, pod, proxy, dns}, started: ran.Add(2 * time.Second), want: "p"},
		"restarted pods":       {objects: []runtime.Object{node, pod, proxy, dns}, started: ran.Add(-time.Second)},
		"no kube-proxy":        {objects: []runtime.Object{node, dns}, want: "kube-proxy"},
		"unobserved DaemonSet": {objects: []runtime.Object{node, unseen, dns}, want: "kube-proxy"},
		"no CoreDNS":           {objects: []runtime.Object{node, proxy}, want: "coredns"},
		"half of CoreDNS":      {objects: []runtime.Object{node, proxy, half}, want: "coredns"},
		"all ready":            {objects: []runtime.Object{node, proxy, dns}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := firstNotReady(t.Context(), fake.NewClientset(tt.objects...), tt.started)
			if err != nil || got != tt.want {
				t.Errorf("got %q, error %v, want %q", got, err, tt.want)
			}
		})
	}
}
