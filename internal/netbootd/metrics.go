// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/pxelab/pxelab/internal/bootconfig/ipxe"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/dhcp"
	"github.com/pxelab/pxelab/internal/netbootd/internal/tftp"
)

// kindOther is the kind of requests for what does not exist. Names in metrics must not
// depend on what guests send.
const kindOther = "other"

// counters count the requests of one run of netbootd. They are safe for concurrent use.
type counters struct {
	mu       sync.Mutex
	requests map[requestKey]int64
	// refused has the refused DHCP requests of services that have ended.
	refused          map[string]int64
	sent             map[string]int64
	rendered, failed map[string]int64
}

type requestKey struct{ service, kind, result string }

func newCounters() *counters {
	return &counters{
		requests: map[requestKey]int64{}, refused: map[string]int64{}, sent: map[string]int64{},
		rendered: map[string]int64{}, failed: map[string]int64{},
	}
}

func (c *counters) sawRequest(key requestKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests[key]++
}

func (c *counters) sawBytes(service string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent[service] += n
}

// sawRendering counts the rendering of a file of a machine.
func (c *counters) sawRendering(file string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed[file]++
		return
	}
	c.rendered[file]++
}

// sawDHCP counts an answer to a DHCP request.
func (c *counters) sawDHCP(e dhcp.Event) {
	result := string(e.Kind)
	if e.Kind == dhcp.Discover {
		result = "NoOffer"
	}
	c.sawRequest(requestKey{serviceDHCP, cmp.Or(string(e.Stage), kindOther), result})
}

// sawTFTP counts the end of a transfer. program is the file that the client should
// fetch.
func (c *counters) sawTFTP(e tftp.Event, program string) {
	key := requestKey{service: serviceTFTP, kind: kindOther}
	switch {
	case e.Name == ipxe.AutoexecName:
		key.kind = ipxe.AutoexecName
	case program != "" && e.Name == program:
		key.kind = "program"
	}
	switch e.Kind {
	case tftp.Start:
		return // its end follows
	case tftp.Done:
		key.result = resultOK
	default:
		key.result = string(e.Kind)
	}
	c.sawRequest(key)
	c.sawBytes(serviceTFTP, e.Bytes)
}

// refusedDHCP names the reasons for which a DHCP request is refused.
var refusedDHCP = map[dhcp.Reason]string{
	dhcp.ReasonMalformed:     "DHCPMalformed",
	dhcp.ReasonNotRequest:    "DHCPNotRequest",
	dhcp.ReasonNoMessageType: "DHCPNoMessageType",
	dhcp.ReasonOtherServer:   "DHCPOtherServer",
	dhcp.ReasonForeignRelay:  "DHCPForeignRelay",
	dhcp.ReasonOutside:       "DHCPOutsideNetwork",
	dhcp.ReasonNoAddress:     "DHCPNoAddress",
	dhcp.ReasonNotYours:      "DHCPNotYours",
}

// addRefusedDHCP adds what a DHCP server has counted.
func addRefusedDHCP(refused map[string]int64, counted map[dhcp.Reason]uint64) {
	for reason, n := range counted {
		if kind, ok := refusedDHCP[reason]; ok {
			refused[kind] += int64(n)
		}
	}
}

// keepDHCP keeps what a DHCP server has counted that ends.
func (c *counters) keepDHCP(counted map[dhcp.Reason]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	addRefusedDHCP(c.refused, counted)
}

// snapshot returns the counters; Refused has those of DHCP servers that have ended.
func (c *counters) snapshot() netbootapi.Metrics {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := netbootapi.Metrics{
		Refused: maps.Clone(c.refused), SentBytes: maps.Clone(c.sent),
		Renderings: maps.Clone(c.rendered), FailedRenderings: maps.Clone(c.failed),
	}
	for key, n := range c.requests {
		m.Requests = append(m.Requests, netbootapi.RequestCount{Service: key.service, Kind: key.kind, Result: key.result, Count: n})
	}
	slices.SortFunc(m.Requests, func(a, b netbootapi.RequestCount) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Result, b.Result))
	})
	return m
}

// Metrics implements [apiserver.Backend].
func (b backend) Metrics() netbootapi.Metrics {
	s := b.s
	m := s.countRequests()
	s.state.countObjects(&m)
	s.blobs.countStored(&m)
	return m
}

// countRequests returns the counters of requests.
func (s *Server) countRequests() netbootapi.Metrics {
	s.mu.Lock() // the counters of a DHCP server that ends are counted once
	defer s.mu.Unlock()
	m := s.state.counters.snapshot()
	if s.lab != nil {
		addRefusedDHCP(m.Refused, s.lab.dhcp.Counters())
	}
	return m
}

// countObjects adds the refused requests and the numbers of objects.
func (k *stateStore) countObjects(m *netbootapi.Metrics) {
	k.mu.Lock()
	defer k.mu.Unlock()
	state := k.registry.State()
	m.StartedAt = state.StartedAt
	m.Leases = int64(len(state.Leases))
	m.Machines = int64(len(k.registry.UIDs()))
	for kind, n := range state.Refused {
		m.Refused[kind] += n
	}
}

// countStored adds the numbers and sizes of what is stored.
func (b *blobStore) countStored(m *netbootapi.Metrics) {
	b.mu.Lock()
	m.Blobs = int64(len(b.have))
	for _, size := range b.have {
		m.BlobBytes += size
	}
	b.mu.Unlock()
	if free, err := b.free(b.dir); err == nil {
		m.FreeBytes = max(0, free)
	}
}
