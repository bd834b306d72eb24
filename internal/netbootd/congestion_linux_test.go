// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"bytes"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestLossIsDetectedAboveOnePercent(t *testing.T) {
	for _, test := range []struct {
		retransmitted, sent uint32
		want                bool
	}{
		{0, 0, false},
		{3, 10, false}, // too few segments
		{0, 1000, false},
		{10, 1000, false},
		{11, 1000, true},
		{5, 100, true},
		{1 << 31, 1 << 31, true},
	} {
		if got := lossy(test.retransmitted, test.sent); got != test.want {
			t.Errorf("%d of %d segments retransmitted: got lossy %t, want %t", test.retransmitted, test.sent, got, test.want)
		}
	}
}

func TestConnectionWithoutLossIsNotSettled(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limited := limitListener(listener, netip.Addr{}, func(netip.Addr) bool { return true }, func() {})
	defer limited.Close()
	client, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := limited.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if adaptToLoss(conn) {
		t.Error("adaptToLoss of a new connection: got true, want false")
	}
	if !adaptToLoss(client) {
		t.Error("adaptToLoss of a connection of another listener: got false, want true")
	}
}

func TestFileIsSentInPieces(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), pieceSize/8) // two pieces
	content = append(content, "and a bit"...)
	recorder := httptest.NewRecorder()
	pieces := 0
	w := &countingWriter{ResponseWriter: recorder, before: func(span) {}, between: func() { pieces++ }}
	n, err := io.CopyN(w, bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(len(content)); n != want {
		t.Errorf("copied %d bytes, want %d", n, want)
	}
	if w.n != n {
		t.Errorf("counted %d bytes, want %d", w.n, n)
	}
	if got := recorder.Body.Bytes(); !bytes.Equal(got, content) {
		t.Errorf("got a response of %d bytes, want the %d bytes of the file", len(got), len(content))
	}
	if pieces != 3 {
		t.Errorf("sent in %d pieces, want 3", pieces)
	}
	// A file that is shorter than expected ends the response.
	if n, err := io.CopyN(w, bytes.NewReader(content[:10]), 20); n != 10 || err != io.EOF {
		t.Errorf("short file: got %d bytes, error %v; want 10 bytes, EOF", n, err)
	}
}
