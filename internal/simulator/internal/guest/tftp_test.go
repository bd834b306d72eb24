// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// transferOf returns a transfer as OVMF requests it, and what it sends.
func transferOf(request tftpRequest, to *bytes.Buffer) (t *tftpTransfer, sent *[]string) {
	request.options = [][2]string{{"blksize", tftpBlock}, {"windowsize", tftpWindow}}
	sent = &[]string{}
	t = &tftpTransfer{request: request, to: to, size: -1, block: tftpDefaultBlock, window: 1}
	t.write = func(b []byte) error {
		*sent = append(*sent, string(b))
		return nil
	}
	return t, sent
}

func data(number byte, size int) []byte {
	return append([]byte{0, tftpData, 0, number}, bytes.Repeat([]byte{number}, size)...)
}

func TestTFTPWindow(t *testing.T) {
	var content bytes.Buffer
	transfer, sent := transferOf(tftpRequest{}, &content)
	const block = 100
	for i, packet := range [][]byte{
		[]byte("\x00\x06blksize\x00100\x00WINDOWSIZE\x004\x00tsize\x00550\x00"),
		data(1, block), data(1, block), data(2, block), data(4, block), data(5, block), // 3 is lost
		data(3, block), data(4, block), data(5, block), data(6, 50),
	} {
		if _, done, err := transfer.handle(packet); err != nil || done != (i == 9) {
			t.Fatalf("packet %d: got end %t, error %v, want the end with the last", i, done, err)
		}
	}
	want := []string{"\x00\x04\x00\x00", "\x00\x04\x00\x02", "\x00\x04\x00\x06"}
	if !slices.Equal(*sent, want) {
		t.Errorf("got %q, want %q", *sent, want)
	}
	if content.Len() != 550 || transfer.size != 550 {
		t.Errorf("got %d bytes of %d, want 550", content.Len(), transfer.size)
	}
}

func TestTFTPErrors(t *testing.T) {
	var content bytes.Buffer
	transfer, _ := transferOf(tftpRequest{}, &content)
	var refused *tftpServerError
	if _, done, err := transfer.handle([]byte("\x00\x05\x00\x01File not found\x00")); !done || !errors.As(err, &refused) || refused.code != 1 {
		t.Errorf("error packet: got end %t, error %v, want code 1", done, err)
	}
	transfer, sent := transferOf(tftpRequest{probe: true}, &content)
	if _, done, err := transfer.handle([]byte("\x00\x06tsize\x007\x00")); !done || !errors.Is(err, errTFTPAborted) || transfer.size != 7 {
		t.Errorf("probe: got end %t, error %v, size %d, want an abort and size 7", done, err, transfer.size)
	}
	if want := []string{"\x00\x05\x00\x08User aborted the transfer\x00"}; !slices.Equal(*sent, want) {
		t.Errorf("probe: got %q, want %q", *sent, want)
	}
}

func FuzzTFTP(f *testing.F) {
	f.Add([]byte("\x00\x06blksize\x00100\x00windowsize\x004\x00"), data(1, 100), data(3, 10))
	f.Add([]byte("\x00\x06blksize\x0099999999\x00windowsize\x00-1\x00tsize\x00x\x00"), data(1, 512), data(2, 512))
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		var content bytes.Buffer
		transfer, sent := transferOf(tftpRequest{}, &content)
		for _, packet := range [][]byte{a, b, c} {
			if _, done, err := transfer.handle(packet); done || err != nil {
				break
			}
		}
		if transfer.block < 8 || transfer.block > 1468 || transfer.window < 1 || transfer.window > 64 {
			t.Errorf("got blocks of %d bytes and a window of %d, want no more than was requested", transfer.block, transfer.window)
		}
		if len(*sent) > 3 || content.Len() > len(a)+len(b)+len(c) {
			t.Errorf("got %d packets and %d bytes for three packets, want no more than one for each", len(*sent), content.Len())
		}
	})
}
