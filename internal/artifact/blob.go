// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/google/renameio/v2"
)

// stamp is by what we know that a file is still the one that was hashed.
type stamp struct {
	Size    int64
	ModTime int64 // nanoseconds
	Inode   uint64
	Device  uint64
	// ChangeTime catches writers who put the modification time back; it is 0
	// for blobs, whose links may come and go.
	ChangeTime int64
}

// blobRecord is kept in verified/<hex>. Its own modification time is when the
// content was last handed out.
type blobRecord struct{ Stamp stamp }

// sourceRecord is kept in sources/<key>.
type sourceRecord struct {
	Source Source
	Digest string // hex of SHA-256
	Files  *localFiles
}

// localFiles are the stamps of the files a local source was resolved from.
type localFiles struct {
	File stamp
	Sums stamp // zero when the checksum was given
}

type blobState int

const (
	blobMissing   blobState = iota
	blobUnchecked           // there, but not known to be what was hashed
	blobGood
)

// observe looks at content without hashing it. Good content counts as handed
// out now.
func (s *Store) observe(digest string) (Artifact, blobState) {
	path := s.path("sha256", digest)
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return Artifact{}, blobMissing
	}
	var r blobRecord
	record := s.path("verified", digest)
	if !readRecord(record, &r) || r.Stamp != blobStamp(info) {
		return Artifact{}, blobUnchecked
	}
	now := time.Now()
	if err := os.Chtimes(record, now, now); err != nil {
		return Artifact{}, blobUnchecked
	}
	return Artifact{Digest: "sha256:" + digest, Path: path, Size: info.Size()}, blobGood
}

// recheck is observe for callers with time: content that may have changed is
// hashed, and removed when it did.
func (s *Store) recheck(ctx context.Context, digest string, m *meter) (Artifact, bool, error) {
	a, state := s.observe(digest)
	if state != blobUnchecked {
		return a, state == blobGood, nil
	}
	path := s.path("sha256", digest)
	sums, err := hashFile(ctx, path, false, m)
	if err != nil {
		return Artifact{}, false, err
	}
	if sums.sha256 != digest {
		return Artifact{}, false, os.Remove(path)
	}
	if err := s.vouch(digest); err != nil {
		return Artifact{}, false, err
	}
	a, state = s.observe(digest)
	return a, state == blobGood, nil
}

// vouch records that the content was hashed as it is now.
func (s *Store) vouch(digest string) error {
	info, err := os.Stat(s.path("sha256", digest))
	if err != nil {
		return err
	}
	return s.writeRecord(s.path("verified", digest), blobRecord{blobStamp(info)})
}

func blobStamp(info os.FileInfo) stamp {
	st := stampOf(info)
	st.ChangeTime = 0
	return st
}

// insert makes file the content with the given digest, which it was found to
// have.
func (s *Store) insert(file, digest string) error {
	// Other processes with another source may store the same content; they use
	// other locks.
	unlock, err := s.lock(context.Background(), "blob-"+digest, nil)
	if err != nil {
		return err
	}
	defer unlock()
	if _, state := s.observe(digest); state == blobGood {
		return os.Remove(file)
	}
	if err := sealFile(file); err != nil {
		return fmt.Errorf("storing artifact: %w", err)
	}
	if err := os.Rename(file, s.path("sha256", digest)); err != nil {
		return fmt.Errorf("storing artifact: %w", err)
	}
	if err := syncDir(s.path("sha256")); err != nil {
		return fmt.Errorf("storing artifact: %w", err)
	}
	return s.vouch(digest)
}

// sealFile makes the file durable and read-only.
func sealFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(blobMode), f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// remember records what a source stands for.
func (s *Store) remember(c *checked, sums digests, files *localFiles) error {
	r := sourceRecord{Source: c.Source, Digest: sums.sha256, Files: files}
	if sums.sha512 != "" {
		if err := s.writeRecord(s.path("sources", "sha512-"+sums.sha512), r); err != nil {
			return err
		}
	}
	return s.writeRecord(s.path("sources", c.key()), r)
}

// readRecord reads JSON. A record that is not there or damaged counts as not
// known: everything in the store can be found out again.
func readRecord(path string, v any) bool {
	b, err := os.ReadFile(path)
	return err == nil && json.Unmarshal(b, v) == nil
}

func (s *Store) writeRecord(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(path, b, fileMode, renameio.WithTempDir(s.run)); err != nil {
		return fmt.Errorf("writing record of artifact store: %w", noSpace(err, path, 0))
	}
	return nil
}

// digests of a file in hexadecimal.
type digests struct {
	sha256 string
	sha512 string // empty unless asked for
	size   int64
}

// has reports whether the content is the one that sum describes.
func (d digests) has(sum checksum) bool {
	if sum.algo == "sha512" {
		return d.sha512 == sum.hex
	}
	return d.sha256 == sum.hex
}

func (d digests) of(algo string) string {
	if algo == "sha512" {
		return "sha512:" + d.sha512
	}
	return "sha256:" + d.sha256
}

const copyBuffer = 1 << 20

// hashFile reads a file to its end, at which it reports the stage Verifying.
func hashFile(ctx context.Context, path string, with512 bool, m *meter) (digests, error) {
	f, err := os.Open(path)
	if err != nil {
		return digests{}, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return digests{}, err
	}
	m.stage(StageVerifying, 0, info.Size())
	h256, h512 := sha256.New(), hash.Hash(nil)
	w := io.Writer(h256)
	if with512 {
		h512 = sha512.New()
		w = io.MultiWriter(h256, h512)
	}
	buf := make([]byte, copyBuffer)
	var size int64
	for {
		if err := ctx.Err(); err != nil {
			return digests{}, err
		}
		n, err := f.Read(buf)
		_, _ = w.Write(buf[:n]) // a hash does not fail
		size += int64(n)
		m.at(size)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return digests{}, fmt.Errorf("hashing %s: %w", path, err)
		}
	}
	d := digests{sha256: hex.EncodeToString(h256.Sum(nil)), size: size}
	if h512 != nil {
		d.sha512 = hex.EncodeToString(h512.Sum(nil))
	}
	return d, nil
}
