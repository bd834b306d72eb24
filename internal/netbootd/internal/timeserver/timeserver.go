// SPDX-License-Identifier: Apache-2.0

// Package timeserver gives a lab the time of its server's clock by NTP version 4 (RFC
// 5905), also to clients of SNTP and of the versions 1 to 3.
package timeserver

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"time"
)

const (
	// packetSize is the size of a packet without extensions, in bytes (RFC 5905, 7.3). An
	// answer is never larger than its request.
	packetSize = 48

	modeClient = 3
	modeServer = 4

	// stratum 10 is that of a computer's own clock, as with chrony's "local": every other
	// source is better, but any client accepts it.
	stratum = 10
	// precision of the clock as a power of two seconds, about a microsecond.
	precision = -20
	// dispersion is the clock's assumed error, 1/16 s, in units of 2^-16 s.
	dispersion = 1 << 12
	// eraOffset is the time from NTP's epoch, 1900, to that of Unix, in seconds.
	eraOffset = 2208988800
)

// reference identifies the clock (RFC 5905, 7.3).
var reference = [4]byte{'L', 'O', 'C', 'L'}

// Options of a Server. All are required.
type Options struct {
	// Address to listen on; port 0 selects a free one.
	Address netip.AddrPort
	// Network returns the network whose clients are answered.
	Network func() netip.Prefix
	Clock   func() time.Time
	// Answered is called for each packet; ok is false for one that is not a request.
	Answered func(ok bool)
}

// Server answers requests for the time.
type Server struct {
	options Options
	conn    *net.UDPConn
}

// New binds the socket.
func New(o Options) (*Server, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(o.Address))
	if err != nil {
		return nil, err
	}
	return &Server{options: o, conn: conn}, nil
}

// Addr returns the address of the socket.
func (s *Server) Addr() net.Addr { return s.conn.LocalAddr() }

// Close releases the socket of a server that does not serve.
func (s *Server) Close() error { return s.conn.Close() }

// Serve answers until ctx ends (nil) or the socket fails, and closes it.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	defer s.conn.Close()
	buffer := make([]byte, packetSize)
	for {
		n, client, err := s.conn.ReadFromUDPAddrPort(buffer)
		received := s.options.Clock()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if !s.options.Network().Contains(client.Addr().Unmap()) {
			continue
		}
		answer, ok := reply(buffer[:n], received, s.options.Clock)
		s.options.Answered(ok)
		if ok {
			_, _ = s.conn.WriteToUDPAddrPort(answer[:], client) // the client asks again
		}
	}
}

// reply returns the answer to a request that was received at a time, or false for anything
// but a client's request. Fields that follow the first 48 bytes are ignored, as in RFC 4330.
func reply(request []byte, received time.Time, clock func() time.Time) (answer [packetSize]byte, ok bool) {
	if len(request) < packetSize {
		return answer, false
	}
	version, mode := request[0]>>3&7, request[0]&7
	// Version 1 has no modes.
	if version < 1 || version > 4 || mode != modeClient && (version != 1 || mode != 0) {
		return answer, false
	}
	answer[0] = version<<3 | modeServer
	answer[1] = stratum
	answer[2] = request[2] // the poll interval
	answer[3] = byte(0x100 + precision)
	binary.BigEndian.PutUint32(answer[8:], dispersion)
	copy(answer[12:], reference[:])
	put(answer[16:], received) // the clock was last set: now, it is the source
	copy(answer[24:32], request[40:48])
	put(answer[32:], received)
	put(answer[40:], clock())
	return answer, true
}

// put writes a timestamp (RFC 5905, 6).
func put(to []byte, at time.Time) {
	binary.BigEndian.PutUint32(to, uint32(at.Unix()+eraOffset))
	binary.BigEndian.PutUint32(to[4:], uint32(uint64(at.Nanosecond())<<32/uint64(time.Second)))
}
