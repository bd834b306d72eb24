// SPDX-License-Identifier: Apache-2.0

package nameserver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

const (
	// messageSize is the largest answer by UDP. It passes every network unfragmented
	// (RFC 9715).
	messageSize = 1232
	// readTimeout and idleTimeout are limits of a TCP connection.
	readTimeout = 5 * time.Second
	idleTimeout = 10 * time.Second
	// shutdownTimeout limits the wait for questions in progress.
	shutdownTimeout = time.Second
)

// Options of a Server. All are required but Resolvers and Limit.
type Options struct {
	// Address to listen on, by UDP and TCP; port 0 selects a free one.
	Address netip.AddrPort
	// Zone returns what the server is authoritative for now. Only clients in its network
	// are answered.
	Zone    func() Zone
	Records Records
	// Resolvers returns the name servers that are asked for other names, in order. Without
	// one such questions are refused.
	Resolvers func() []netip.AddrPort
	// Limit limits the connections of a listener.
	Limit func(net.Listener) net.Listener
	// Answered is called for each question with its kind and the name of the response
	// code.
	Answered func(kind Kind, rcode string)
}

// Kind of a question.
type Kind string

const (
	KindLab   Kind = "lab"   // about the lab's domain or network
	KindOther Kind = "other" // about anything else
)

// Server answers questions about names.
type Server struct {
	options  Options
	packets  net.PacketConn
	listener net.Listener
	upstream *upstream
}

// New binds the sockets.
func New(o Options) (*Server, error) {
	listener, err := net.Listen("tcp4", o.Address.String())
	if err != nil {
		return nil, err
	}
	packets, err := net.ListenPacket("udp4", listener.Addr().String())
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	if o.Limit != nil {
		listener = o.Limit(listener)
	}
	return &Server{options: o, packets: packets, listener: listener, upstream: newUpstream()}, nil
}

// Addr returns the address of both sockets.
func (s *Server) Addr() net.Addr { return s.packets.LocalAddr() }

// Close releases the sockets of a server that does not serve.
func (s *Server) Close() error { return errors.Join(s.packets.Close(), s.listener.Close()) }

// Serve answers until ctx ends (nil) or a socket fails, and closes both.
func (s *Server) Serve(ctx context.Context) error {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, request *dns.Msg) { s.serve(ctx, w, request) })
	servers := []*dns.Server{
		{PacketConn: s.packets, Handler: handler, UDPSize: messageSize, MsgAcceptFunc: accept},
		{
			Listener: s.listener, Handler: handler, MsgAcceptFunc: accept,
			ReadTimeout: readTimeout, WriteTimeout: readTimeout, IdleTimeout: func() time.Duration { return idleTimeout },
		},
	}
	ended := make(chan error, len(servers))
	for _, server := range servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		failed := make(chan struct{})
		go func() {
			ended <- server.ActivateAndServe()
			close(failed)
		}()
		select { // a server cannot be stopped before it has started
		case <-started:
		case <-failed:
		}
	}
	var first error
	left := len(servers)
	select {
	case <-ctx.Done():
	case first = <-ended:
		left--
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	for _, server := range servers {
		_ = server.ShutdownContext(limit) // the one that failed has ended already
	}
	errs := []error{first}
	for range left {
		errs = append(errs, <-ended)
	}
	_ = s.Close()
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(errs...)
}

// accept refuses, before they are parsed, messages other than one simple question.
func accept(h dns.Header) dns.MsgAcceptAction {
	const query, response = 0, 1 << 15
	if h.Bits&response == 0 && h.Bits>>11&0xf != query {
		return dns.MsgRejectNotImplemented
	}
	return dns.DefaultMsgAcceptFunc(h)
}

func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, request *dns.Msg) {
	client, err := netip.ParseAddrPort(w.RemoteAddr().String())
	zone := s.options.Zone()
	if err != nil || !zone.Address.Contains(client.Addr().Unmap()) {
		return // an answer could be wanted by someone who forges the source
	}
	_, stream := w.RemoteAddr().(*net.TCPAddr)
	reply, kind := s.reply(ctx, zone, client.Addr(), request, stream)
	size := dns.MinMsgSize
	if edns := request.IsEdns0(); edns != nil {
		size = min(max(int(edns.UDPSize()), dns.MinMsgSize), messageSize)
	}
	if stream {
		size = dns.MaxMsgSize
	}
	reply.Truncate(size)
	s.options.Answered(kind, rcodeName(reply))
	_ = w.WriteMsg(reply) // the client asks again
}

// rcodeName returns the name of an answer's code. The code of BADVERS has another name in
// transaction signatures, which this server does not use (RFC 6891, 9).
func rcodeName(m *dns.Msg) string {
	if m.Rcode == dns.RcodeBadVers {
		return "BADVERS"
	}
	return dns.RcodeToString[m.Rcode]
}

// reply returns the answer to a request, which has one question.
func (s *Server) reply(ctx context.Context, zone Zone, client netip.Addr, request *dns.Msg, stream bool) (*dns.Msg, Kind) {
	reply := new(dns.Msg).SetReply(request)
	reply.RecursionAvailable = len(s.options.Resolvers()) > 0
	edns := request.IsEdns0()
	if edns != nil {
		reply.SetEdns0(messageSize, false)
		if edns.Version() != 0 {
			reply.Rcode = dns.RcodeBadVers
			return reply, KindOther
		}
	}
	question := request.Question[0]
	switch {
	case question.Qclass != dns.ClassINET || question.Qtype == dns.TypeAXFR || question.Qtype == dns.TypeIXFR:
		reply.Rcode = dns.RcodeRefused
		return reply, KindOther
	case zone.answer(reply, question, s.options.Records):
		return reply, KindLab
	case !reply.RecursionAvailable || !request.RecursionDesired:
		reply.Rcode = dns.RcodeRefused
		return reply, KindOther
	}
	answer, ok := s.upstream.ask(ctx, s.options.Resolvers(), client, request, stream)
	if !ok {
		reply.Rcode = dns.RcodeServerFailure
		return reply, KindOther
	}
	reply.Rcode = answer.Rcode
	reply.AuthenticatedData = answer.AuthenticatedData
	reply.Truncated = answer.Truncated
	reply.Answer, reply.Ns = answer.Answer, answer.Ns
	return reply, KindOther
}
