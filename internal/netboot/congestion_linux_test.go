// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"bytes"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestLossy(t *testing.T) {
	for _, test := range []struct {
		again, sent uint32
		want        bool
	}{
		{0, 0, false},
		{3, 10, false}, // too few to tell
		{0, 1000, false},
		{10, 1000, false},
		{11, 1000, true},
		{5, 100, true},
		{1 << 31, 1 << 31, true},
	} {
		if got := lossy(test.again, test.sent); got != test.want {
			t.Errorf("%d of %d segments sent again: lossy %t, want %t", test.again, test.sent, got, test.want)
		}
	}
}

func TestConnectionWithoutLossIsWatchedOn(t *testing.T) {
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
		t.Error("a new connection counts as settled")
	}
	if !adaptToLoss(client) {
		t.Error("a connection that is not the lab's is watched")
	}
}

func TestFilesGoOutInPieces(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), pieceSize/8) // two pieces
	content = append(content, "and a bit"...)
	recorder := httptest.NewRecorder()
	pieces := 0
	w := &countingWriter{ResponseWriter: recorder, between: func() { pieces++ }}
	n, err := io.CopyN(w, bytes.NewReader(content), int64(len(content)))
	if err != nil || n != int64(len(content)) || w.n != n {
		t.Errorf("copied %d, counted %d of %d bytes: %v", n, w.n, len(content), err)
	}
	if !bytes.Equal(recorder.Body.Bytes(), content) {
		t.Error("what went out is not the file")
	}
	if pieces != 3 {
		t.Errorf("went out in %d pieces, want 3", pieces)
	}
	// A file that is shorter than was promised ends the answer.
	if n, err := io.CopyN(w, bytes.NewReader(content[:10]), 20); n != 10 || err != io.EOF {
		t.Errorf("of a short file %d bytes, %v", n, err)
	}
}
