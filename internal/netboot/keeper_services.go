// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"cmp"
	"slices"

	"github.com/pxelab/pxelab/internal/agent"
)

// maxUnknown clients that nobody declared are kept.
const maxUnknown = 64

// setBlobs says which blobs are here whole.
func (k *keeper) setBlobs(have map[string]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.have = have
	k.recountBlobs()
	k.publish()
}

func (k *keeper) recountBlobs() {
	k.state.MissingBlobs = nil
	if k.config == nil {
		return
	}
	for _, b := range k.config.Blobs() {
		if !k.have[b.Digest] {
			k.state.MissingBlobs = append(k.state.MissingBlobs, b)
		}
	}
}

func (k *keeper) setService(name string, s agent.Service) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state.Services[name] == s {
		return
	}
	k.state.Services[name] = s
	k.publish()
}

func (k *keeper) dropService(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, there := k.state.Services[name]; there {
		delete(k.state.Services, name)
		k.publish()
	}
}

// stopServices marks what was serving as stopped.
func (k *keeper) stopServices() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, service := range k.state.Services {
		service.Serving = false
		k.state.Services[name] = service
	}
	k.publish()
}

func (k *keeper) setLeases(leases []agent.Lease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state.Leases = leases
	k.untold = true
}

// refuse counts a request that was turned away.
func (k *keeper) refuse(reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// A flood must not wake the watchers at its own pace; the figures go out
	// with the next change or heartbeat. The first one is news.
	k.state.Refused[reason]++
	if k.state.Refused[reason] == 1 {
		k.publish()
	}
}

// sawUnknown notes a client that nobody declared.
func (k *keeper) sawUnknown(c agent.UnknownClient) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(k.state.Unknown), func(u agent.UnknownClient) bool {
		if u.MAC == c.MAC && !c.Address.IsValid() {
			c.Address = u.Address
		}
		if u.MAC == c.MAC && c.Architecture == "" {
			c.Architecture = u.Architecture
		}
		return u.MAC == c.MAC
	})
	list = append(list, c)
	slices.SortFunc(list, func(a, b agent.UnknownClient) int {
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), cmp.Compare(a.MAC, b.MAC))
	})
	k.state.Unknown = list[:min(len(list), maxUnknown)]
	k.untold = true
}
