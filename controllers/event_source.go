// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// eventSource puts objects on a controller's queue when something outside of the API
// changed. The queue merges repeated events of one object. It is safe for concurrent
// use.
type eventSource struct {
	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
	keys  map[string]types.NamespacedName
	uids  map[types.NamespacedName]types.UID
	// done has the objects that were reconciled at least once, and observed those whose
	// status has what was observed since the manager started.
	done     map[types.UID]bool
	observed map[types.UID]bool
	// writes has the last write of each object's status by this manager.
	writes map[types.UID]statusWrite
}

// statusWrite is a write of an object's status.
type statusWrite struct {
	// replaced is the resource version that the write replaced, "" if the API server
	// found nothing to change.
	replaced string
	at       time.Time
}

// newStatusWrite returns the write that has just replaced base by o.
func newStatusWrite(o, base client.Object) statusWrite {
	w := statusWrite{at: time.Now()}
	if replaced := base.GetResourceVersion(); replaced != o.GetResourceVersion() {
		w.replaced = replaced
	}
	return w
}

func newEventSource() *eventSource {
	return &eventSource{
		keys: map[string]types.NamespacedName{}, uids: map[types.NamespacedName]types.UID{},
		done: map[types.UID]bool{}, observed: map[types.UID]bool{}, writes: map[types.UID]statusWrite{},
	}
}

// track records the name of the object with a UID. It returns the UID of an earlier
// object of that name, which is gone, or "".
func (s *eventSource) track(uid types.UID, key types.NamespacedName) (gone types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.uids[key]; old != uid {
		gone = old
		delete(s.keys, string(old))
		delete(s.done, old)
		delete(s.observed, old)
		delete(s.writes, old)
	}
	s.keys[string(uid)] = key
	s.uids[key] = uid
	return gone
}

// forget drops an object that is gone. It returns the UID that it had, or "".
func (s *eventSource) forget(key types.NamespacedName) (gone types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone = s.uids[key]
	delete(s.keys, string(gone))
	delete(s.done, gone)
	delete(s.observed, gone)
	delete(s.writes, gone)
	delete(s.uids, key)
	return gone
}

// markReconciled records that an object was reconciled, with or without success.
func (s *eventSource) markReconciled(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[uid] = true
}

// reconciledOnce reports whether an object was reconciled since the manager started.
func (s *eventSource) reconciledOnce(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done[uid]
}

// markObserved records that an object's status in the API has what was observed since the
// manager started.
func (s *eventSource) markObserved(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observed[uid] = true
}

// observedOnce reports whether markObserved was called for an object.
func (s *eventSource) observedOnce(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.observed[uid]
}

// markWritten records a write of an object's status; lastWrite returns the last one.
func (s *eventSource) markWritten(uid types.UID, w statusWrite) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes[uid] = w
}

func (s *eventSource) lastWrite(uid types.UID) (w statusWrite, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok = s.writes[uid]
	return w, ok
}

// enqueue queues the object with this UID, if it is one of this controller's.
func (s *eventSource) enqueue(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key, ok := s.keys[uid]; ok && s.queue != nil {
		s.queue.Add(reconcile.Request{NamespacedName: key})
	}
}

// source returns the source that the controller watches. Events before the
// controller starts need no queue: at its start it reconciles every object.
func (s *eventSource) source() source.Source {
	return source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.queue = q
		return nil
	})
}

// taskKey is the key of an object's background task; ownerOf returns the UID in it.
func taskKey(uid types.UID, name string) string { return string(uid) + "/" + name }

func ownerOf(key string) string {
	uid, _, _ := strings.Cut(key, "/")
	return uid
}
