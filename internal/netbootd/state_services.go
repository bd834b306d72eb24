// SPDX-License-Identifier: Apache-2.0

package netbootd

import "github.com/pxelab/pxelab/internal/netbootapi"

// blobStored and blobLost record which blobs are stored whole.
func (k *stateStore) blobStored(digest string, size int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.registry.Stored(digest, size)
}

func (k *stateStore) blobLost(digest string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.registry.Lost(digest)
}

// blobNamed reports whether the configuration or an entry names a blob.
func (k *stateStore) blobNamed(digest string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.Named(digest)
}

// blobDamaged is [registry.Registry.Damaged].
func (k *stateStore) blobDamaged(blob netbootapi.Blob) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.Damaged(blob)
}

// textKey is [registry.Registry.TextKey].
func (k *stateStore) textKey() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.TextKey()
}

func (k *stateStore) setService(name string, s netbootapi.Service) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.registry.State().Services[name] == s {
		return
	}
	k.edit(func(state *netbootapi.State) { state.Services[name] = s })
	k.publish()
}

func (k *stateStore) dropService(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, there := k.registry.State().Services[name]; there {
		k.edit(func(state *netbootapi.State) { delete(state.Services, name) })
		k.publish()
	}
}

// stopServices marks all services as stopped.
func (k *stateStore) stopServices() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.edit(func(state *netbootapi.State) {
		for name, service := range state.Services {
			service.Serving = false
			state.Services[name] = service
		}
	})
	k.publish()
}

// setLeases sets the leases that publishDeferred publishes.
func (k *stateStore) setLeases(leases []netbootapi.Lease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.edit(func(state *netbootapi.State) { state.Leases = leases })
	k.deferred = true
}

// refuse counts a refused request.
func (k *stateStore) refuse(reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// A flood must not wake the watchers for each request: the first refusal is
	// published at once, the counts with the next change or heartbeat.
	k.edit(func(state *netbootapi.State) { state.Refused[reason]++ })
	if k.registry.State().Refused[reason] == 1 {
		k.publish()
	}
}
