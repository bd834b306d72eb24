// SPDX-License-Identifier: Apache-2.0

package nameserver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// machines implements Records.
type machines map[string]string

func (m machines) Address(label string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(m[label])
	return a, err == nil
}

func (m machines) Label(a netip.Addr) (string, bool) {
	for label, text := range m {
		if text == a.String() {
			return label, true
		}
	}
	return "", false
}

var lab = Zone{Domain: "lab.internal", Server: "lab", Address: netip.MustParsePrefix("127.0.0.1/20")}

// fixture is a server of the zone lab on loopback.
type fixture struct {
	address string
	mu      sync.Mutex
	counted map[string]int
}

// start starts a server, which asks the resolvers for other names.
func start(t *testing.T, zone Zone, records Records, resolvers ...netip.AddrPort) *fixture {
	t.Helper()
	f := &fixture{counted: map[string]int{}}
	s, err := New(Options{
		Address: netip.MustParseAddrPort("127.0.0.1:0"), Zone: func() Zone { return zone }, Records: records,
		Resolvers: func() []netip.AddrPort { return resolvers },
		Answered: func(kind Kind, rcode string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.counted[string(kind)+" "+rcode]++
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.address = s.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return f
}

func (f *fixture) ask(t *testing.T, network string, question *dns.Msg) *dns.Msg {
	t.Helper()
	client := dns.Client{Net: network, Timeout: patience}
	answer, _, err := client.ExchangeContext(t.Context(), question, f.address)
	if err != nil {
		t.Fatalf("%s: %v", question.Question[0].Name, err)
	}
	return answer
}

func question(name string, kind uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, kind) }

// summary describes an answer.
func summary(m *dns.Msg) string {
	out := rcodeName(m)
	if m.Authoritative {
		out += " aa"
	}
	for _, rr := range m.Answer {
		out += " " + strings.Join(strings.Fields(rr.String())[3:], " ")
	}
	for _, rr := range m.Ns {
		out += " authority " + rr.Header().Name + " " + dns.TypeToString[rr.Header().Rrtype]
	}
	return out
}

func TestZone(t *testing.T) {
	f := start(t, lab, machines{"target-1": "127.0.0.11", "lab": "127.0.0.12"})
	const soa = " authority lab.internal. SOA"
	for name, c := range map[string]struct {
		question *dns.Msg
		want     string
	}{
		"machine":                      {question("target-1.lab.internal.", dns.TypeA), "NOERROR aa A 127.0.0.11"},
		"in other case":                {question("TARGET-1.Lab.INTERNAL.", dns.TypeA), "NOERROR aa A 127.0.0.11"},
		"the server, not its impostor": {question("lab.lab.internal.", dns.TypeA), "NOERROR aa A 127.0.0.1"},
		"no address of version 6":      {question("target-1.lab.internal.", dns.TypeAAAA), "NOERROR aa" + soa},
		"any type":                     {question("target-1.lab.internal.", dns.TypeANY), "NOERROR aa" + soa},
		"unknown machine":              {question("target-2.lab.internal.", dns.TypeA), "NXDOMAIN aa" + soa},
		"below a machine":              {question("www.target-1.lab.internal.", dns.TypeA), "NXDOMAIN aa" + soa},
		"name servers":                 {question("lab.internal.", dns.TypeNS), "NOERROR aa NS lab.lab.internal."},
		"start of the zone":            {question("lab.internal.", dns.TypeSOA), "NOERROR aa SOA lab.lab.internal. hostmaster.lab.internal. 1 3600 600 86400 10"},
		"address of the domain":        {question("lab.internal.", dns.TypeA), "NOERROR aa" + soa},
		"name of an address":           {question("11.0.0.127.in-addr.arpa.", dns.TypePTR), "NOERROR aa PTR target-1.lab.internal."},
		"name of the server":           {question("1.0.0.127.in-addr.arpa.", dns.TypePTR), "NOERROR aa PTR lab.lab.internal."},
		"name of the impostor":         {question("12.0.0.127.in-addr.arpa.", dns.TypePTR), "NXDOMAIN aa authority 0.0.127.in-addr.arpa. SOA"},
		"unused address":               {question("99.0.0.127.in-addr.arpa.", dns.TypePTR), "NXDOMAIN aa authority 0.0.127.in-addr.arpa. SOA"},
		"address of another network":   {question("1.0.0.10.in-addr.arpa.", dns.TypePTR), "REFUSED"},
		"no address":                   {question("1.0.127.in-addr.arpa.", dns.TypePTR), "REFUSED"},
		"another domain":               {question("example.org.", dns.TypeA), "REFUSED"},
		"a domain that ends alike":     {question("notlab.internal.", dns.TypeA), "REFUSED"},
		"transfer":                     {question("lab.internal.", dns.TypeAXFR), "REFUSED"},
		"another class":                {&dns.Msg{MsgHdr: dns.MsgHdr{Id: 1}, Question: []dns.Question{{Name: "version.bind.", Qtype: dns.TypeTXT, Qclass: dns.ClassCHAOS}}}, "REFUSED"},
		"update":                       {new(dns.Msg).SetUpdate("lab.internal."), "NOTIMP"},
		"notification":                 {new(dns.Msg).SetNotify("lab.internal."), "NOTIMP"},
		"unknown version of EDNS": {func() *dns.Msg {
			m := question("target-1.lab.internal.", dns.TypeA).SetEdns0(1232, false)
			m.IsEdns0().SetVersion(1)
			return m
		}(), "BADVERS"},
	} {
		for _, network := range []string{"udp4", "tcp4"} {
			t.Run(name+" by "+network, func(t *testing.T) {
				answer := f.ask(t, network, c.question.Copy())
				if diff := cmp.Diff(c.want, summary(answer)); diff != "" {
					t.Errorf("answer (-want +got):\n%s", diff)
				}
				if answer.RecursionAvailable {
					t.Error("recursion is offered without a resolver")
				}
			})
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counted["lab NXDOMAIN"] != 8 || f.counted["other BADVERS"] != 2 {
		t.Errorf("counted %v", f.counted)
	}
}

// Without a domain the server has no names, not all names.
func TestNoDomain(t *testing.T) {
	f := start(t, Zone{Address: lab.Address}, machines{"target-1": "127.0.0.11"})
	for _, name := range []string{"target-1.", "example.org.", "."} {
		if got := summary(f.ask(t, "udp4", question(name, dns.TypeA))); got != "REFUSED" {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// A client outside the network gets no answer, because its source may be forged.
func TestForeignClient(t *testing.T) {
	f := start(t, Zone{Domain: "lab.internal", Server: "lab", Address: netip.MustParsePrefix("127.0.0.1/30")}, machines{})
	dialer := &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	client := dns.Client{Net: "udp4", Dialer: dialer}
	conn, err := client.DialContext(t.Context(), f.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.WriteMsg(question("lab.lab.internal.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	f.ask(t, "udp4", question("lab.lab.internal.", dns.TypeA)) // the server has read the first one
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if answer, err := conn.ReadMsg(); err == nil {
		t.Errorf("got %s", summary(answer))
	}
}

// resolver is a name server of the uplink. Its name big.example. has many addresses.
func resolver(t *testing.T, answer func(*dns.Msg)) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, request *dns.Msg) {
		reply := new(dns.Msg).SetReply(request)
		answer(reply)
		if _, stream := w.RemoteAddr().(*net.TCPAddr); !stream {
			reply.Truncate(messageSize)
		}
		_ = w.WriteMsg(reply)
	})
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	for _, s := range []*dns.Server{{Listener: listener, Handler: handler}, {PacketConn: packets, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		running.Go(func() { _ = s.ActivateAndServe() })
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return netip.MustParseAddrPort(listener.Addr().String())
}

func addresses(n int) func(*dns.Msg) {
	return func(m *dns.Msg) {
		for i := range n {
			m.Answer = append(m.Answer, &dns.A{Hdr: header(m.Question[0].Name, dns.TypeA), A: net.IPv4(192, 0, 2, byte(i))})
		}
	}
}

func fails(rcode int) func(*dns.Msg) { return func(m *dns.Msg) { m.Rcode = rcode } }

func TestResolvers(t *testing.T) {
	one := resolver(t, addresses(1))
	many := resolver(t, addresses(200))
	none := resolver(t, fails(dns.RcodeNameError))
	broken := resolver(t, fails(dns.RcodeServerFailure))
	for name, c := range map[string]struct {
		resolvers []netip.AddrPort
		network   string
		edit      func(*dns.Msg)
		want      string
		truncated bool
	}{
		"answer":                     {[]netip.AddrPort{one}, "udp4", nil, "NOERROR A 192.0.2.0", false},
		"no such name":               {[]netip.AddrPort{none, one}, "udp4", nil, "NXDOMAIN", false},
		"the second one answers":     {[]netip.AddrPort{broken, one}, "udp4", nil, "NOERROR A 192.0.2.0", false},
		"none answers":               {[]netip.AddrPort{broken}, "udp4", nil, "SERVFAIL", false},
		"recursion is not desired":   {[]netip.AddrPort{one}, "udp4", func(m *dns.Msg) { m.RecursionDesired = false }, "REFUSED", false},
		"too large for a packet":     {[]netip.AddrPort{many}, "udp4", nil, "NOERROR", true},
		"too large, but by a stream": {[]netip.AddrPort{many}, "tcp4", nil, "NOERROR", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, lab, machines{}, c.resolvers...)
			q := question("www.example.", dns.TypeA)
			if c.edit != nil {
				c.edit(q)
			}
			answer := f.ask(t, c.network, q)
			got := summary(answer)
			if len(answer.Answer) > 1 {
				got = dns.RcodeToString[answer.Rcode]
			}
			if got != c.want || answer.Truncated != c.truncated || !answer.RecursionAvailable {
				t.Errorf("got %s, truncated %v, recursion available %v", got, answer.Truncated, answer.RecursionAvailable)
			}
			if whole := len(answer.Answer) == 200; c.network == "tcp4" && !whole {
				t.Errorf("got %d addresses", len(answer.Answer))
			}
			answer.Compress = true // as it was sent
			if answer.Len() > dns.MinMsgSize && c.network == "udp4" {
				t.Errorf("got %d bytes, and the client accepts 512", answer.Len())
			}
		})
	}
}

// A client that asks much takes nothing from others.
func TestUpstreamIsShared(t *testing.T) {
	u := newUpstream()
	greedy, modest := netip.MustParseAddr("10.88.0.11"), netip.MustParseAddr("10.88.0.12")
	entered := 0
	for range maxAsked {
		if u.enter(greedy) {
			entered++
		}
	}
	if entered != maxAskedPerClient || !u.enter(modest) {
		t.Fatalf("one client has %d questions, want %d, and another one can ask", entered, maxAskedPerClient)
	}
	u.leave(modest)
	for range entered {
		u.leave(greedy)
	}
	for i := range maxAsked {
		if !u.enter(netip.AddrFrom4([4]byte{10, 88, 1, byte(i)})) {
			t.Fatalf("client %d cannot ask", i)
		}
	}
	if u.enter(modest) {
		t.Errorf("more than %d questions are asked", maxAsked)
	}
}

// FuzzServe sends arbitrary packets; the server keeps answering.
func FuzzServe(f *testing.F) {
	for _, m := range []*dns.Msg{
		question("target-1.lab.internal.", dns.TypeA), question("11.0.0.127.in-addr.arpa.", dns.TypePTR).SetEdns0(4096, true),
	} {
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	s := &Server{options: Options{
		Zone: func() Zone { return lab }, Records: machines{"target-1": "127.0.0.11"},
		Resolvers: func() []netip.AddrPort { return nil }, Answered: func(Kind, string) {},
	}, upstream: newUpstream()}
	f.Fuzz(func(t *testing.T, raw []byte) {
		request := new(dns.Msg)
		if request.Unpack(raw) != nil || len(request.Question) != 1 {
			return // the library refuses it before a handler sees it
		}
		w := &written{from: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9), Port: 5353}}
		s.serve(t.Context(), w, request)
		if w.reply == nil {
			t.Fatal("no answer")
		}
		packed, err := w.reply.Pack()
		if err != nil {
			t.Fatalf("the answer to %v cannot be sent: %v", request, err)
		}
		if len(packed) > messageSize {
			t.Errorf("the answer has %d bytes", len(packed))
		}
	})
}

// written implements [dns.ResponseWriter].
type written struct {
	dns.ResponseWriter
	from  net.Addr
	reply *dns.Msg
}

func (w *written) RemoteAddr() net.Addr { return w.from }

func (w *written) WriteMsg(m *dns.Msg) error {
	w.reply = m
	return nil
}

// The resolvers of Go and of the C library send what TestZone does not.
func TestSystemResolver(t *testing.T) {
	f := start(t, lab, machines{"target-1": "127.0.0.11"})
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, f.address)
	}}
	got, err := r.LookupHost(t.Context(), "target-1.lab.internal")
	if want := "[127.0.0.11]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v, want %s", got, err, want)
	}
	names, err := r.LookupAddr(t.Context(), "127.0.0.11")
	if want := "[target-1.lab.internal.]"; err != nil || fmt.Sprint(names) != want {
		t.Errorf("got %v, %v, want %s", names, err, want)
	}
}
