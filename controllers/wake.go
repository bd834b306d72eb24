// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// waker puts objects on a controller's queue when something outside of the API
// changed. The queue folds repeated wakes of one object into one.
type waker struct {
	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
	keys  map[string]types.NamespacedName
	uids  map[types.NamespacedName]types.UID
}

func newWaker() *waker {
	return &waker{keys: map[string]types.NamespacedName{}, uids: map[types.NamespacedName]types.UID{}}
}

// know remembers which object has a UID. It returns the UID of an earlier
// object of that name, which is gone, or "".
func (w *waker) know(uid types.UID, key types.NamespacedName) (gone types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.uids[key]; old != uid {
		gone = old
		delete(w.keys, string(old))
	}
	w.keys[string(uid)], w.uids[key] = key, uid
	return gone
}

// forget is called when the object is gone. It returns the UID it had, or "".
func (w *waker) forget(key types.NamespacedName) (gone types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gone = w.uids[key]
	delete(w.keys, string(gone))
	delete(w.uids, key)
	return gone
}

// wake queues the object with this UID, if it is one of this controller's.
func (w *waker) wake(uid string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if key, ok := w.keys[uid]; ok && w.queue != nil {
		w.queue.Add(reconcile.Request{NamespacedName: key})
	}
}

// source is what the controller watches. What happened before it was started
// is not lost: at its start the controller sees every object anyway.
func (w *waker) source() source.Source {
	return source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.queue = q
		return nil
	})
}
