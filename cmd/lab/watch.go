// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pxelab/pxelab/internal/access"
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
	// kinds counts the objects of each kind.
	kinds map[string]int
	// alive fails when a program that works on the objects has exited.
	alive func() error
	// unobserved lists the objects whose status may be that of an earlier manager.
	unobserved func(context.Context) ([]access.Object, error)
	// printed is the last printed state of each object, and last the last one of all.
	printed map[string]string
	last    map[string]objectState
	// failing is the time since which an object has reported a failure.
	failing map[string]time.Time
	// counted are the counts that were printed last, at countedAt.
	counted   string
	countedAt time.Time
}

func newWatch(out *printer, c *cluster, objects []*unstructured.Unstructured) *watch {
	return &watch{
		out: out, cluster: c, objects: objects, kinds: countKinds(objects),
		printed: map[string]string{}, last: map[string]objectState{}, failing: map[string]time.Time{},
	}
}

// targets returns the names of the watched targets, sorted.
func (w *watch) targets() []string {
	return w.names(func(*unstructured.Unstructured) bool { return true })
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
			return fmt.Errorf("no response for %s: %w; waiting for:\n%s", apiTimeout, err, w.summary())
		}
		if err := w.alive(); err != nil {
			return fmt.Errorf("%w; waiting for:\n%s", err, w.summary())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; waiting for:\n%s", context.Cause(ctx), w.summary())
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
	// First: the statuses that are read afterwards are then those of this manager.
	stale, err := w.stale(ctx)
	if err != nil {
		return false, err
	}
	states, err := w.read(ctx)
	if err != nil {
		return false, err
	}
	done := true
	var live []string
	var failures []string
	for _, o := range w.objects {
		s, err := stateOf(states, o)
		if err != nil {
			return false, err
		}
		if stale[keyOf(o.GetKind(), o)] {
			s = unobservedState(s)
		}
		name, counted := o.GetKind()+" "+o.GetName(), w.isCounted(o.GetKind())
		w.last[name] = s
		if s.state != w.printed[name] && !counted {
			w.printed[name] = s.state
			w.out.line("%-28s %s", name, s.state)
		}
		if !s.done {
			done = false
			if !counted {
				live = append(live, strings.TrimSpace(o.GetName()+" "+s.detail))
			}
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
	if counts := w.printCounts(now, done); counts != "" {
		live = append(live, counts)
	}
	w.out.status(strings.Join(live, "  |  "))
	if len(failures) > 0 {
		return false, &failureError{"waiting will not resolve this failure; correct the object and run \"make up\" again\n" +
			strings.Join(failures, "\n")}
	}
	return done, nil
}

// stale returns the objects whose status may be that of an earlier manager.
func (w *watch) stale(ctx context.Context) (map[access.Object]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	objects, err := w.unobserved(ctx)
	if err != nil {
		return nil, err
	}
	stale := make(map[access.Object]bool, len(objects))
	for _, o := range objects {
		stale[o] = true
	}
	return stale, nil
}

// summary returns the objects that are not done, and what each waits for.
func (w *watch) summary() string {
	var lines []string
	for _, o := range w.objects {
		name := o.GetKind() + " " + o.GetName()
		s, read := w.last[name]
		switch {
		case s.done:
			continue
		case !read:
			s.state = "not read yet"
		case s.waits != "":
			s.state = s.waits
		}
		lines = append(lines, "  "+name+": "+s.state)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
