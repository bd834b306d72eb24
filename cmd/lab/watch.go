// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

const (
	// pollInterval is how often the objects are polled.
	pollInterval = time.Second
	// apiTimeout is how long the cluster may fail to answer.
	apiTimeout = time.Minute
	// settleTime is how long an object may report a failure before it counts:
	// objects that refer to each other are created one after the other.
	settleTime = 20 * time.Second
)

// watch polls the samples' objects until they are Ready.
type watch struct {
	out     *printer
	cluster *cluster
	objects []*unstructured.Unstructured
	// alive fails when a program that works on the objects has exited.
	alive func() error
	// printed is the last printed state of each object.
	printed map[string]string
	// failing is the time since which an object has reported a failure.
	failing map[string]time.Time
}

func newWatch(out *printer, c *cluster, objects []*unstructured.Unstructured) *watch {
	return &watch{
		out: out, cluster: c, objects: objects,
		printed: map[string]string{}, failing: map[string]time.Time{},
	}
}

// objectState is the observed state of an object.
type objectState struct {
	// state is printed whenever it changes; detail is for the live line only.
	state, detail string
	done          bool
	// failure is why waiting is pointless; empty if it is not.
	failure string
}

// targets returns the names of the watched targets, sorted.
func (w *watch) targets() []string {
	var names []string
	for _, o := range w.objects {
		if o.GetKind() == "BareMetalTarget" {
			names = append(names, o.GetName())
		}
	}
	slices.Sort(names)
	return names
}

// untilReady blocks until all objects are done. It returns an error as soon as
// one of them cannot become ready by waiting, or when ctx is done.
func (w *watch) untilReady(ctx context.Context) error {
	defer w.out.status("")
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	answered := time.Now()
	for {
		done, err := w.poll(ctx)
		var failed *failureError
		switch {
		case done:
			return nil
		case errors.As(err, &failed):
			return err
		case err == nil:
			answered = time.Now()
		case time.Since(answered) > apiTimeout:
			return fmt.Errorf("the cluster has not responded for %s: %w", apiTimeout, err)
		}
		if err := w.alive(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; current state:\n%s", context.Cause(ctx), w.summary())
		case <-tick.C:
		}
	}
}

// failureError is a failure that waiting cannot resolve.
type failureError struct{ text string }

func (e *failureError) Error() string { return e.text }

// poll prints changed states and reports whether all objects are done.
func (w *watch) poll(ctx context.Context) (bool, error) {
	now := time.Now()
	done := true
	var live []string
	var failures []string
	for _, o := range w.objects {
		s, err := w.observe(ctx, o)
		if err != nil {
			return false, err
		}
		name := o.GetKind() + " " + o.GetName()
		if s.state != w.printed[name] {
			w.printed[name] = s.state
			w.out.line("%-28s %s", name, s.state)
		}
		if !s.done {
			done = false
			live = append(live, strings.TrimSpace(o.GetName()+" "+s.detail))
		}
		if s.failure == "" {
			delete(w.failing, name)
			continue
		}
		if _, known := w.failing[name]; !known {
			w.failing[name] = now
		}
		if now.Sub(w.failing[name]) >= settleTime {
			failures = append(failures, name+": "+s.failure)
		}
	}
	w.out.status(strings.Join(live, "  |  "))
	if len(failures) > 0 {
		return false, &failureError{"waiting will not resolve this failure; correct the object and run \"make up\" again\n" +
			strings.Join(failures, "\n")}
	}
	return done, nil
}

func (w *watch) summary() string {
	var lines []string
	for name, state := range w.printed {
		lines = append(lines, "  "+name+" "+state)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// observe gets an object and returns its state. An object of another API group is
// done as soon as it exists.
func (w *watch) observe(ctx context.Context, o *unstructured.Unstructured) (objectState, error) {
	key := client.ObjectKeyFromObject(o)
	switch o.GetKind() {
	case "ProvisioningServer":
		var server v1alpha1.ProvisioningServer
		if err := w.cluster.client.Get(ctx, key, &server); err != nil {
			return objectState{}, err
		}
		return serverState(&server), nil
	case "BootProfile":
		var profile v1alpha1.BootProfile
		if err := w.cluster.client.Get(ctx, key, &profile); err != nil {
			return objectState{}, err
		}
		return profileState(&profile), nil
	case "BareMetalTarget":
		var target v1alpha1.BareMetalTarget
		if err := w.cluster.client.Get(ctx, key, &target); err != nil {
			return objectState{}, err
		}
		return targetState(&target), nil
	default:
		return objectState{state: "applied", done: true}, nil
	}
}

// joinNonEmpty joins its non-empty arguments with spaces.
func joinNonEmpty(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

func serverState(p *v1alpha1.ProvisioningServer) objectState {
	s := objectState{
		state:  joinNonEmpty(string(p.Status.Phase), p.Status.Message),
		detail: string(p.Status.Phase),
		done:   p.Status.Phase == v1alpha1.ServerReady && p.Status.ObservedGeneration == p.Generation,
	}
	if p.Status.Phase == v1alpha1.ServerFailed && p.Status.ObservedGeneration == p.Generation {
		s.failure = p.Status.Message
	}
	return orWaiting(s)
}

// terminalReasons lists the reasons that persist until the profile is changed.
var terminalReasons = []string{
	v1alpha1.ReasonInvalid, v1alpha1.ReasonChecksumMismatch, v1alpha1.ReasonNotFound, v1alpha1.ReasonUnsupported,
	v1alpha1.ReasonTooLarge, v1alpha1.ReasonBadTemplate, v1alpha1.ReasonReferenceNotFound, v1alpha1.ReasonArchitectureMismatch,
}

func profileState(p *v1alpha1.BootProfile) objectState {
	ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || p.Status.ObservedGeneration != p.Generation {
		return orWaiting(objectState{})
	}
	if ready.Status == metav1.ConditionTrue {
		return objectState{state: "Ready", done: true}
	}
	s := objectState{state: joinNonEmpty(ready.Reason, ready.Message), detail: joinNonEmpty(ready.Reason, p.Status.Progress)}
	// The message of a download contains its progress: do not print a line per
	// change.
	if p.Status.Progress != "" {
		s.state = ready.Reason
	}
	if slices.Contains(terminalReasons, ready.Reason) {
		s.failure = ready.Message
	}
	return s
}

func targetState(t *v1alpha1.BareMetalTarget) objectState {
	current := t.Status.ObservedGeneration == t.Generation
	s := objectState{
		state:  joinNonEmpty(string(t.Status.Phase), t.Status.Message),
		detail: joinNonEmpty(string(t.Status.Phase), t.Status.Progress),
		done:   current && t.Status.Phase == v1alpha1.TargetReady,
	}
	switch t.Status.Phase {
	case v1alpha1.TargetInstalling:
		// The message changes with every report.
		s.state = joinNonEmpty(string(t.Status.Phase), roundedProgress(t.Status.Install))
	case v1alpha1.TargetStopped:
		s.done = current && t.Spec.Power == v1alpha1.PowerOff
	case v1alpha1.TargetFailed:
		if current {
			s.failure = t.Status.Message
		}
	}
	return orWaiting(s)
}

// roundedProgress returns the progress of an installation, rounded down to a
// quarter, so that few changes are printed.
func roundedProgress(p *v1alpha1.InstallProgress) string {
	if p == nil || p.Stage == "" {
		return ""
	}
	return fmt.Sprintf("%s %d%%", p.Stage, p.Percent/25*25)
}

// orWaiting sets the state of an object that has no status yet.
func orWaiting(s objectState) objectState {
	if s.state == "" {
		s.state, s.detail = "waiting for the manager", "waiting"
	}
	return s
}
