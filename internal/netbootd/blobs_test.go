// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// A full disk costs what has not been named for the longest time first, and never what
// an entry names.
func TestUploadsMakeRoom(t *testing.T) {
	now := time.Unix(1000, 0)
	k := newStateStore("test", func() time.Time { return now })
	b, err := openBlobs(t.TempDir(), time.Hour, k)
	if err != nil {
		t.Fatal(err)
	}
	const capacity = 4 * 100_000
	diskOf(b, capacity)
	upload := func(c byte) (netbootapi.Blob, error) {
		now = now.Add(time.Minute)
		content := bytes.Repeat([]byte{c}, 100_000)
		blob := netbootapi.Blob{Digest: netbootapi.Digest(content), Size: int64(len(content))}
		return blob, b.write(t.Context(), blob, 0, bytes.NewReader(content))
	}
	blobs := map[byte]netbootapi.Blob{}
	for _, c := range []byte("abcd") {
		if blobs[c], err = upload(c); err != nil {
			t.Fatal(err)
		}
	}
	setup := labConfig()
	setup.Programs[0].Blob = blobs['a']
	setup.Machines = nil
	k.setConfig(setup)
	stored := func(want string) {
		t.Helper()
		got := ""
		for _, c := range []byte("abcdefg") {
			if k.registry.Has(blobs[c].Digest) {
				got += string(c)
			}
			if _, whole, _ := b.offset(blobs[c]); whole != k.registry.Has(blobs[c].Digest) {
				t.Errorf("%c: got whole %t, want as the state has it", c, whole)
			}
		}
		if got != want {
			t.Errorf("got blobs %q, want %q", got, want)
		}
	}
	for i, want := range []string{"acde", "adef", "aefg"} {
		c := "efg"[i]
		if blobs[c], err = upload(c); err != nil {
			t.Fatal(err)
		}
		stored(want)
	}
	// Released later than the others were uploaded.
	now = now.Add(time.Minute)
	k.putServer(setup.Encode(), &netbootapi.ServerConfig{Network: setup.Network, TextKey: textKey})
	b.released([]netbootapi.Blob{blobs['a']})
	if blobs['b'], err = upload('b'); err != nil {
		t.Fatal(err)
	}
	stored("abfg")
	large := netbootapi.Blob{Digest: netbootapi.Digest([]byte("large")), Size: capacity + 1}
	if err := b.write(t.Context(), large, 0, bytes.NewReader(nil)); !errors.Is(err, netbootapi.ErrNoSpace) {
		t.Errorf("upload larger than the disk: got error %v, want %v", err, netbootapi.ErrNoSpace)
	}
	// Nothing was removed for what does not fit anyway.
	stored("abfg")
}

// Files that leave no space for other files leave some for texts.
func TestFilesLeaveRoomForTexts(t *testing.T) {
	k := newStateStore("test", time.Now)
	k.setConfig(&labSetup{ServerConfig: labConfig().ServerConfig})
	b, err := openBlobs(t.TempDir(), time.Hour, k)
	if err != nil {
		t.Fatal(err)
	}
	b.free = func(string) (int64, error) { return spare, nil }
	if err := b.write(t.Context(), blobOf("kernel"), 0, bytes.NewReader(contents["kernel"])); !errors.Is(err, netbootapi.ErrNoSpace) {
		t.Errorf("a file: got error %v, want %v", err, netbootapi.ErrNoSpace)
	}
	text := textOf("text")
	if err := b.write(t.Context(), text, 0, strings.NewReader("text")); err != nil {
		t.Errorf("a text: got error %v, want none", err)
	}
}

// A file and a text whose digests have the same digits do not affect each other.
func TestKindsAreStoredSeparately(t *testing.T) {
	k := newStateStore("test", time.Now)
	k.setConfig(&labSetup{ServerConfig: labConfig().ServerConfig})
	dir := t.TempDir()
	b, err := openBlobs(dir, time.Hour, k)
	if err != nil {
		t.Fatal(err)
	}
	text := textOf("text")
	file := netbootapi.Blob{Digest: strings.TrimPrefix(text.Digest, "hmac-"), Size: text.Size}
	held, release := io.Pipe()
	begun := make(chan error, 1)
	go func() { begun <- b.write(t.Context(), file, 0, held) }()
	if _, err := release.Write([]byte("te")); err != nil { // the upload of the file is in progress
		t.Fatal(err)
	}
	if err := b.write(t.Context(), text, 0, strings.NewReader("text")); err != nil {
		t.Errorf("a text during the upload of a file: got error %v, want none", err)
	}
	_ = release.Close()
	if err := <-begun; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the interrupted file: got error %v, want %v", err, io.ErrUnexpectedEOF)
	}
	for range 2 {
		if _, whole, err := b.offset(text); !whole || err != nil {
			t.Errorf("the text: got whole %t, error %v; want it whole", whole, err)
		}
		if at, whole, err := b.offset(file); at != 2 || whole || err != nil {
			t.Errorf("the file: got %d bytes, whole %t, error %v; want a part of 2", at, whole, err)
		}
		k = newStateStore("test", time.Now)
		if b, err = openBlobs(dir, time.Hour, k); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.sweep(); err != nil {
		t.Fatal(err)
	}
	if err := b.write(t.Context(), file, 2, strings.NewReader("xt")); !errors.Is(err, netbootapi.ErrDigest) {
		t.Errorf("the rest of a file with another digest: got error %v, want %v", err, netbootapi.ErrDigest)
	}
	if got, err := b.text(text); got != "text" || err != nil {
		t.Errorf("after the file was refused: got text %q, error %v; want it", got, err)
	}
}

func TestGracePeriod(t *testing.T) {
	now := time.Unix(1000, 0)
	k := newStateStore("test", func() time.Time { return now })
	dir := t.TempDir()
	b, err := openBlobs(dir, time.Hour, k)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.write(t.Context(), blobOf("kernel"), 0, bytes.NewReader(contents["kernel"])); err != nil {
		t.Fatal(err)
	}
	part := bytes.NewReader(contents["initrd"][:1000])
	if err := b.write(t.Context(), blobOf("initrd"), 0, part); err == nil {
		t.Fatal("a part: got no error, want one")
	}
	there := func(what string, want int) {
		t.Helper()
		if err := b.sweep(); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != want {
			t.Errorf("%s: got %d files, error %v; want %d", what, len(entries), err, want)
		}
	}
	now = now.Add(time.Hour - time.Second)
	there("before the end", 2)
	// A restart starts the period again.
	k = newStateStore("test", func() time.Time { return now })
	if b, err = openBlobs(dir, time.Hour, k); err != nil {
		t.Fatal(err)
	}
	there("after a restart", 2)
	now = now.Add(time.Hour - time.Second)
	there("before the end after a restart", 2)
	now = now.Add(time.Second)
	there("after the end", 0)
	if k.registry.Has(blobOf("kernel").Digest) {
		t.Error("got the removed blob in the state, want none")
	}
	if err := b.write(t.Context(), blobOf("initrd"), 0, bytes.NewReader(contents["initrd"])); err != nil {
		t.Errorf("upload after the part was removed: got error %v, want none", err)
	}
}

func TestBlobsOfAnotherKindAreRefused(t *testing.T) {
	k := newStateStore("test", time.Now)
	b, err := openBlobs(t.TempDir(), time.Hour, k)
	if err != nil {
		t.Fatal(err)
	}
	text := textOf("text")
	for name, c := range map[string]struct {
		blob netbootapi.Blob
		want error
	}{
		"path":       {netbootapi.Blob{Digest: "sha256:../../x", Size: 1}, netbootapi.ErrInvalid},
		"no size":    {netbootapi.Blob{Digest: blobOf("kernel").Digest}, netbootapi.ErrInvalid},
		"huge":       {netbootapi.Blob{Digest: blobOf("kernel").Digest, Size: 1 << 60}, netbootapi.ErrInvalid},
		"large text": {netbootapi.Blob{Digest: text.Digest, Size: netbootapi.MaxKeysBytes + 1}, netbootapi.ErrInvalid},
		"no key yet": {text, netbootapi.ErrNoServer},
	} {
		t.Run(name, func(t *testing.T) {
			if err := b.write(t.Context(), c.blob, 0, bytes.NewReader([]byte("text"))); !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
		})
	}
	k.setConfig(&labSetup{ServerConfig: labConfig().ServerConfig})
	if err := b.write(t.Context(), text, 0, bytes.NewReader([]byte("text"))); err != nil {
		t.Fatal(err)
	}
	other := text
	other.Size++
	if at, whole, err := b.offset(other); at != 0 || whole || err != nil {
		t.Errorf("another size of a blob that nothing names: got %d bytes, whole %t, error %v; want it missing", at, whole, err)
	}
	m := machineConfig()
	m.UserDataTemplate = text
	if err := k.restoreMachine(m.UID, entryOf(&m), netbootapi.MachineState{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.offset(other); !errors.Is(err, netbootapi.ErrInvalid) {
		t.Errorf("another size of a blob that an entry names: got error %v, want %v", err, netbootapi.ErrInvalid)
	}
}
