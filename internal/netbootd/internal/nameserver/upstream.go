// SPDX-License-Identifier: Apache-2.0

package nameserver

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// upstreamTimeout is how long one name server may take, less than the five seconds
	// after which clients ask again.
	upstreamTimeout = 2 * time.Second
	// maxAsked and maxAskedPerClient bound the questions that wait for an answer, in all
	// and for one client. They are sockets, and a client needs few.
	maxAsked          = 128
	maxAskedPerClient = 8
)

// upstream asks other name servers. It is safe for concurrent use.
type upstream struct {
	mu    sync.Mutex
	asked map[netip.Addr]int
	all   int
}

func newUpstream() *upstream { return &upstream{asked: map[netip.Addr]int{}} }

// ask returns the answer of the first name server that has one. It reports false if none
// has, or if the client, or all clients together, ask too much.
func (u *upstream) ask(ctx context.Context, resolvers []netip.AddrPort, client netip.Addr, request *dns.Msg, stream bool) (*dns.Msg, bool) {
	if !u.enter(client) {
		return nil, false
	}
	defer u.leave(client)
	question := new(dns.Msg)
	question.Id = dns.Id()
	question.Question = request.Question
	question.RecursionDesired = true
	question.CheckingDisabled = request.CheckingDisabled
	question.AuthenticatedData = request.AuthenticatedData
	edns := request.IsEdns0()
	question.SetEdns0(messageSize, edns != nil && edns.Do())
	for _, resolver := range resolvers {
		answer, err := exchange(ctx, question, resolver, "udp4")
		if err == nil && answer.Truncated && stream {
			answer, err = exchange(ctx, question, resolver, "tcp4")
		}
		if err == nil && answer.Rcode != dns.RcodeServerFailure && answer.Rcode != dns.RcodeRefused {
			return answer, true
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, false
}

func exchange(ctx context.Context, question *dns.Msg, resolver netip.AddrPort, network string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	client := dns.Client{Net: network, UDPSize: messageSize}
	answer, _, err := client.ExchangeContext(ctx, question, resolver.String())
	return answer, err
}

func (u *upstream) enter(client netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.all >= maxAsked || u.asked[client] >= maxAskedPerClient {
		return false
	}
	u.all++
	u.asked[client]++
	return true
}

func (u *upstream) leave(client netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.all--
	if u.asked[client]--; u.asked[client] == 0 {
		delete(u.asked, client)
	}
}
