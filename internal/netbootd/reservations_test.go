// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// diskOf makes a store believe that it has a disk of its own with room for capacity bytes
// of files.
func diskOf(b *blobStore, capacity int64) {
	b.free = func(dir string) (int64, error) {
		entries, err := os.ReadDir(dir)
		left := capacity + spare
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				return 0, err
			}
			left -= info.Size()
		}
		return left, err
	}
}

// What is uploaded for a refused entry is not removed before its retry.
func TestRefusedEntriesReserveTheirContent(t *testing.T) {
	s := newIdle(t, 0)
	now := time.Unix(1000, 0)
	s.blobs.now = func() time.Time { return now }
	has := func(when, name string, want bool) {
		t.Helper()
		if err := s.blobs.sweep(); err != nil {
			t.Fatal(err)
		}
		if _, whole, err := s.blobs.offset(blobOf(name)); whole != want || err != nil {
			t.Errorf("%s: got %s whole %t, error %v; want %t", when, name, whole, err, want)
		}
	}
	upload := func(name string) {
		t.Helper()
		if err := s.blobs.write(t.Context(), blobOf(name), 0, bytes.NewReader(contents[name])); err != nil {
			t.Fatal(err)
		}
	}
	const most = time.Hour - time.Second
	m := machineConfig()
	m.UserDataTemplate, m.SSHAuthorizedKeys = netbootapi.Blob{}, netbootapi.Blob{}
	refused := func() {
		t.Helper()
		if err := (backend{s}).PutMachine(t.Context(), m.UID, entryOf(&m)); !errors.Is(err, netbootapi.ErrMissing) {
			t.Fatalf("an entry without all of its files: got error %v, want %v", err, netbootapi.ErrMissing)
		}
	}
	upload("kernel")
	upload("program")
	now = now.Add(most)
	refused()
	now = now.Add(most)
	has("after a refusal", "kernel", true)
	has("after a refusal", "program", true) // the config in force names it
	// A control part does not end it, nor does an upload that takes longer.
	if err := (backend{s}).PutMachine(t.Context(), m.UID, netbootapi.NewEntry(nil, m.Control)); !errors.Is(err, netbootapi.ErrNoContent) {
		t.Fatalf("a control part alone: got error %v, want %v", err, netbootapi.ErrNoContent)
	}
	held, release := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- s.blobs.write(t.Context(), blobOf("image"), 0, held) }()
	if _, err := release.Write([]byte("i")); err != nil {
		t.Fatal(err)
	}
	now = now.Add(24 * time.Hour)
	has("during an upload", "kernel", true)
	_ = release.Close()
	if err := <-done; err == nil {
		t.Fatal("got the image whole, want a part")
	}
	has("after the upload", "kernel", false)

	for _, name := range []string{"kernel", "initrd", "overlay"} {
		upload(name)
	}
	refused()
	if err := s.blobs.write(t.Context(), blobOf("image"), 1, bytes.NewReader(contents["image"][1:])); err != nil {
		t.Fatal(err)
	}
	if err := (backend{s}).PutMachine(t.Context(), m.UID, entryOf(&m)); err != nil {
		t.Fatal(err)
	}
	if n := len(s.blobs.reserved); n != 0 {
		t.Errorf("after the entry was accepted: got %d reservations, want none", n)
	}

	config := labConfig()
	config.Programs = append(config.Programs, netbootapi.Program{Architecture: "aarch64", Name: "other.efi", Blob: absentBlob})
	for range 2 {
		if err := (backend{s}).PutServer(t.Context(), config.Encode(), &config.ServerConfig); !errors.Is(err, netbootapi.ErrMissing) {
			t.Fatalf("a config without its program: got error %v, want %v", err, netbootapi.ErrMissing)
		}
	}
	if n := len(s.blobs.reserved[""].digests); n != 2 {
		t.Errorf("after a refused config: got %d files reserved, want its 2 programs", n)
	}
	m.Image = absentBlob
	m.Attempt = "a2"
	refused()
	if err := (backend{s}).DeleteMachine(t.Context(), m.UID); err != nil {
		t.Fatal(err)
	}
	if _, reserved := s.blobs.reserved[m.UID]; reserved {
		t.Error("after the machine was removed: got its content reserved, want it released")
	}
}

// absentBlob is a file that is never uploaded.
var absentBlob = netbootapi.Blob{Digest: netbootapi.Digest([]byte("never uploaded")), Size: 14}

// A full disk costs reserved content last, and never for other content of the same entry.
func TestReservedContentIsRemovedLast(t *testing.T) {
	now := time.Unix(1000, 0)
	k := newStateStore("test", func() time.Time { return now })
	b, err := openBlobs(t.TempDir(), time.Hour, k)
	if err != nil {
		t.Fatal(err)
	}
	const size, capacity = 100_000, 4 * 100_000
	diskOf(b, capacity)
	file := func(c byte) ([]byte, netbootapi.Blob) {
		content := bytes.Repeat([]byte{c}, size)
		return content, netbootapi.Blob{Digest: netbootapi.Digest(content), Size: size}
	}
	upload := func(c byte) {
		t.Helper()
		now = now.Add(time.Minute)
		content, blob := file(c)
		if err := b.write(t.Context(), blob, 0, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	stored := func(want string) {
		t.Helper()
		got := ""
		for _, c := range []byte("abcdefgh") {
			if _, blob := file(c); k.registry.Has(blob.Digest) {
				got += string(c)
			}
		}
		if got != want {
			t.Errorf("got blobs %q, want %q", got, want)
		}
	}
	reserve := func(uid string, files string, more ...netbootapi.Blob) {
		for _, c := range []byte(files) {
			_, blob := file(c)
			more = append(more, blob)
		}
		b.reserve(uid, more)
	}
	for _, c := range []byte("abcd") {
		upload(c)
	}
	reserve("m", "ae")
	upload('e') // of the same entry as a, the oldest
	stored("acde")
	upload('f') // of another one
	stored("adef")
	reserve("other", "fgh")
	upload('g')
	stored("aefg")
	upload('h') // only what "m" has reserved is left
	stored("efgh")
	// The rest of an entry that does not fit costs neither it nor another one anything.
	large := netbootapi.Blob{Digest: netbootapi.Digest([]byte("large")), Size: 2 * size}
	reserve("other", "fgh", large)
	if err := b.write(t.Context(), large, 0, bytes.NewReader(nil)); !errors.Is(err, netbootapi.ErrNoSpace) {
		t.Errorf("more than fits: got error %v, want %v", err, netbootapi.ErrNoSpace)
	}
	stored("efgh")
}
