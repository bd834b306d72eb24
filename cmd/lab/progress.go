// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
)

const (
	targetKind = "BareMetalTarget"
	// manyObjects is the number of objects of a kind above which they are printed as
	// counts.
	manyObjects = 10
	// countInterval is how often counts are printed at most.
	countInterval = 5 * time.Second
)

// waitLimit returns how long "up" waits for objects by default. Emulated machines take
// minutes, and only a few are installed at a time.
func waitLimit(objects []*unstructured.Unstructured) time.Duration {
	return time.Hour + time.Duration(countKinds(objects)[targetKind])*time.Minute
}

func countKinds(objects []*unstructured.Unstructured) map[string]int {
	counts := map[string]int{}
	for _, o := range objects {
		counts[o.GetKind()]++
	}
	return counts
}

// keyOf identifies an object.
func keyOf(kind string, o client.Object) access.Object {
	return access.Object{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// read returns the states of all objects of the watched kinds and namespaces. It lists
// them: requests for each of hundreds of objects each second would load the cluster.
func (w *watch) read(ctx context.Context) (map[access.Object]objectState, error) {
	states := map[access.Object]objectState{}
	read := map[string]bool{}
	for _, o := range w.objects {
		kind, namespace := o.GetKind(), o.GetNamespace()
		if read[kind+" "+namespace] {
			continue
		}
		read[kind+" "+namespace] = true
		if err := w.list(ctx, kind, namespace, states); err != nil {
			return nil, err
		}
	}
	return states, nil
}

// list adds the states of the objects of a kind in a namespace.
func (w *watch) list(ctx context.Context, kind, namespace string, states map[access.Object]objectState) error {
	c, in := w.cluster.client, client.InNamespace(namespace)
	switch kind {
	case "ProvisioningServer":
		var list v1alpha1.ProvisioningServerList
		if err := c.List(ctx, &list, in); err != nil {
			return err
		}
		for i := range list.Items {
			states[keyOf(kind, &list.Items[i])] = serverState(&list.Items[i])
		}
	case "BootProfile":
		var list v1alpha1.BootProfileList
		if err := c.List(ctx, &list, in); err != nil {
			return err
		}
		for i := range list.Items {
			states[keyOf(kind, &list.Items[i])] = profileState(&list.Items[i])
		}
	case targetKind:
		var list v1alpha1.BareMetalTargetList
		if err := c.List(ctx, &list, in); err != nil {
			return err
		}
		for i := range list.Items {
			states[keyOf(kind, &list.Items[i])] = targetState(&list.Items[i])
		}
	}
	return nil
}

// isWatched reports whether the state of objects of a kind matters. Those of another API
// group are done as soon as they exist.
func isWatched(kind string) bool {
	return kind == "ProvisioningServer" || kind == "BootProfile" || kind == targetKind
}

// stateOf returns the state of an object.
func stateOf(states map[access.Object]objectState, o *unstructured.Unstructured) (objectState, error) {
	if !isWatched(o.GetKind()) {
		return objectState{state: "applied", done: true}, nil
	}
	s, exists := states[keyOf(o.GetKind(), o)]
	if !exists {
		return objectState{}, apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource(o.GetKind()).GroupResource(), o.GetName())
	}
	return s, nil
}

// isCounted reports whether objects of a kind are printed as counts.
func (w *watch) isCounted(kind string) bool { return w.kinds[kind] > manyObjects }

// counts returns how many objects of the counted kinds are in which state, such as
// "100 BareMetalTargets: 20 PXE, 80 Ready"; "" if no kind is counted.
func (w *watch) counts() string {
	states := map[string]map[string]int{}
	for _, o := range w.objects {
		if !w.isCounted(o.GetKind()) {
			continue
		}
		if states[o.GetKind()] == nil {
			states[o.GetKind()] = map[string]int{}
		}
		state, _, _ := strings.Cut(w.last[o.GetKind()+" "+o.GetName()].detail, " ")
		states[o.GetKind()][state]++
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(states)) {
		var parts []string
		for _, state := range slices.Sorted(maps.Keys(states[kind])) {
			parts = append(parts, fmt.Sprintf("%d %s", states[kind][state], state))
		}
		kinds = append(kinds, fmt.Sprintf("%d %ss: %s", w.kinds[kind], kind, strings.Join(parts, ", ")))
	}
	return strings.Join(kinds, "; ")
}

// printCounts prints the counts if they have changed, at most every countInterval unless
// all objects are done. It returns them for the live line.
func (w *watch) printCounts(now time.Time, done bool) string {
	text := w.counts()
	if text != "" && text != w.counted && (done || now.Sub(w.countedAt) >= countInterval) {
		w.counted, w.countedAt = text, now
		w.out.line("%s", text)
	}
	return text
}

// printCreated prints how many objects of the counted kinds were created and existed.
func (l *lab) printCreated(kinds, created map[string]int) {
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if kinds[kind] > manyObjects {
			l.out.line("created %d %ss; %d exist and stay unchanged", created[kind], kind, kinds[kind]-created[kind])
		}
	}
}

// shortened returns at most manyObjects names, and what to print of the others.
func shortened(names []string) (shown []string, more string) {
	if len(names) <= manyObjects {
		return names, ""
	}
	return names[:manyObjects], fmt.Sprintf("  and %d more\n", len(names)-manyObjects)
}

// virtual returns those of the watched targets that are virtual machines, sorted:
// simulated ones run no commands.
func (w *watch) virtual() []string {
	return w.names(func(o *unstructured.Unstructured) bool {
		runner, _, _ := unstructured.NestedString(o.Object, "spec", "machine", "runner")
		return runner != string(v1alpha1.RunnerSimulated)
	})
}

// names returns the names of the watched targets that match, sorted.
func (w *watch) names(match func(*unstructured.Unstructured) bool) []string {
	var names []string
	for _, o := range w.objects {
		if o.GetKind() == targetKind && match(o) {
			names = append(names, o.GetName())
		}
	}
	slices.Sort(names)
	return names
}
