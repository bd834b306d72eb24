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
	// lookEvery is how often the objects are looked at.
	lookEvery = time.Second
	// apiPatience is how long the cluster may fail to answer.
	apiPatience = time.Minute
	// settleTime is how long an object may be wrong before it counts: objects
	// that belong together arrive one after the other.
	settleTime = 20 * time.Second
)

// watch follows the samples' objects until they are Ready.
type watch struct {
	say     *printer
	cluster *cluster
	objects []*unstructured.Unstructured
	// alive fails when what works on the objects has ended.
	alive func() error
	// told is what was last printed of each object.
	told map[string]string
	// failing is since when an object has been hopeless.
	failing map[string]time.Time
}

func newWatch(say *printer, c *cluster, objects []*unstructured.Unstructured) *watch {
	return &watch{say: say, cluster: c, objects: objects, told: map[string]string{}, failing: map[string]time.Time{}}
}

// sight is what there is to say of one object.
type sight struct {
	// state is printed whenever it changes; detail goes to the live line only.
	state, detail string
	done          bool
	// failure is why waiting is in vain; empty while it is not.
	failure string
}

// targets are the names of the watched targets.
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

// untilReady returns nil when all objects are done, and an error as soon as
// one can never be, or when ctx ends.
func (w *watch) untilReady(ctx context.Context) error {
	defer w.say.status("")
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	answered := time.Now()
	for {
		done, err := w.look(ctx)
		var failed *failureError
		switch {
		case done:
			return nil
		case errors.As(err, &failed):
			return err
		case err == nil:
			answered = time.Now()
		case time.Since(answered) > apiPatience:
			return fmt.Errorf("the cluster has not answered for %s: %w", apiPatience, err)
		}
		if err := w.alive(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; as it is now:\n%s", context.Cause(ctx), w.summary())
		case <-tick.C:
		}
	}
}

// failureError ends the waiting.
type failureError struct{ text string }

func (e *failureError) Error() string { return e.text }

// look prints what is new, and tells whether all are done.
func (w *watch) look(ctx context.Context) (bool, error) {
	now := time.Now()
	done := true
	var live []string
	var failures []string
	for _, o := range w.objects {
		s, err := w.see(ctx, o)
		if err != nil {
			return false, err
		}
		name := o.GetKind() + " " + o.GetName()
		if s.state != w.told[name] {
			w.told[name] = s.state
			w.say.line("%-28s %s", name, s.state)
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
	w.say.status(strings.Join(live, "  |  "))
	if len(failures) > 0 {
		return false, &failureError{"this does not come up by waiting; correct the object and run \"make up\" again\n" + strings.Join(failures, "\n")}
	}
	return done, nil
}

func (w *watch) summary() string {
	var lines []string
	for name, state := range w.told {
		lines = append(lines, "  "+name+" "+state)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// see gets one object as it is now. What is no kind of the project is done
// when it is there.
func (w *watch) see(ctx context.Context, o *unstructured.Unstructured) (sight, error) {
	key := client.ObjectKeyFromObject(o)
	switch o.GetKind() {
	case "ProvisioningServer":
		var server v1alpha1.ProvisioningServer
		if err := w.cluster.client.Get(ctx, key, &server); err != nil {
			return sight{}, err
		}
		return seeServer(&server), nil
	case "BootProfile":
		var profile v1alpha1.BootProfile
		if err := w.cluster.client.Get(ctx, key, &profile); err != nil {
			return sight{}, err
		}
		return seeProfile(&profile), nil
	case "BareMetalTarget":
		var target v1alpha1.BareMetalTarget
		if err := w.cluster.client.Get(ctx, key, &target); err != nil {
			return sight{}, err
		}
		return seeTarget(&target), nil
	default:
		return sight{state: "applied", done: true}, nil
	}
}

// words joins what is not empty.
func words(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

func seeServer(p *v1alpha1.ProvisioningServer) sight {
	s := sight{
		state:  words(string(p.Status.Phase), p.Status.Message),
		detail: string(p.Status.Phase),
		done:   p.Status.Phase == v1alpha1.ServerReady && p.Status.ObservedGeneration == p.Generation,
	}
	if p.Status.Phase == v1alpha1.ServerFailed && p.Status.ObservedGeneration == p.Generation {
		s.failure = p.Status.Message
	}
	return waitingAtFirst(s)
}

// hopeless are the reasons for which a profile stays wrong until it is changed.
var hopeless = []string{
	v1alpha1.ReasonInvalid, v1alpha1.ReasonChecksumMismatch, v1alpha1.ReasonNotFound, v1alpha1.ReasonUnsupported,
	v1alpha1.ReasonTooLarge, v1alpha1.ReasonBadTemplate, v1alpha1.ReasonReferenceNotFound, v1alpha1.ReasonArchMismatch,
}

func seeProfile(p *v1alpha1.BootProfile) sight {
	ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || p.Status.ObservedGeneration != p.Generation {
		return waitingAtFirst(sight{})
	}
	if ready.Status == metav1.ConditionTrue {
		return sight{state: "Ready", done: true}
	}
	s := sight{state: words(ready.Reason, ready.Message), detail: words(ready.Reason, p.Status.Progress)}
	// The message of a download names its progress: not a line for each.
	if p.Status.Progress != "" {
		s.state = ready.Reason
	}
	if slices.Contains(hopeless, ready.Reason) {
		s.failure = ready.Message
	}
	return s
}

func seeTarget(t *v1alpha1.BareMetalTarget) sight {
	current := t.Status.ObservedGeneration == t.Generation
	s := sight{
		state:  words(string(t.Status.Phase), t.Status.Message),
		detail: words(string(t.Status.Phase), t.Status.Progress),
		done:   current && t.Status.Phase == v1alpha1.TargetReady,
	}
	switch t.Status.Phase {
	case v1alpha1.TargetInstalling:
		// Its message changes with every report.
		s.state = words(string(t.Status.Phase), roughly(t.Status.Install))
	case v1alpha1.TargetStopped:
		s.done = current && t.Spec.Power == v1alpha1.PowerOff
	case v1alpha1.TargetFailed:
		if current {
			s.failure = t.Status.Message
		}
	}
	return waitingAtFirst(s)
}

// roughly is a quarter that an installation has reached.
func roughly(p *v1alpha1.InstallProgress) string {
	if p == nil {
		return ""
	}
	return fmt.Sprintf("%s %d%%", p.Stage, p.Percent/25*25)
}

// waitingAtFirst says something of an object that has no status yet.
func waitingAtFirst(s sight) sight {
	if s.state == "" {
		s.state, s.detail = "waits for the manager", "waits"
	}
	return s
}
