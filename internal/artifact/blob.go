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
	"io/fs"
	"os"
	"time"

	"github.com/google/renameio/v2"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// stamp is the stat data that identifies a file as the one that was hashed.
type stamp struct {
	Size    int64
	ModTime int64 // nanoseconds
	Inode   uint64
	Device  uint64
	// ChangeTime detects writers that restore the modification time. It is 0
	// for blobs, because adding or removing a hard link changes it.
	ChangeTime int64
}

// blobRecord is the content of verified/<hex>. The modification time of the
// record file is when the blob was last returned to a caller.
type blobRecord struct{ Stamp stamp }

// sourceRecord is the content of sources/<key>.
type sourceRecord struct {
	Source Source
	Digest string // SHA-256, hex
	Files  *localFiles
}

// localFiles holds the stamps of the files that a local source was resolved
// from.
type localFiles struct {
	File stamp
	Sums stamp // zero unless the checksum came from a file in the images folder
}

type blobState int

const (
	blobMissing   blobState = iota
	blobUnchecked           // present, but its stamp is not the recorded one
	blobGood
)

// observe checks a blob by its stamp, without hashing it. It records a good
// blob as used now: Remove leaves it if it was listed before.
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

// recheck is like observe, but it hashes a blob whose stamp does not match, and
// removes the blob if its content changed.
func (s *Store) recheck(ctx context.Context, digest string, m *meter) (Artifact, bool, error) {
	a, state := s.observe(digest)
	if state != blobUnchecked {
		return a, state == blobGood, nil
	}
	path := s.path("sha256", digest)
	sums, err := hashFile(ctx, path, false, m)
	if errors.Is(err, fs.ErrNotExist) {
		return Artifact{}, false, nil // removed since
	}
	if err != nil {
		return Artifact{}, false, err
	}
	s.use.RLock()
	defer s.use.RUnlock()
	if sums.sha256 != digest {
		return Artifact{}, false, os.Remove(path)
	}
	if err := s.markVerified(digest); errors.Is(err, fs.ErrNotExist) {
		return Artifact{}, false, nil // removed since
	} else if err != nil {
		return Artifact{}, false, err
	}
	a, state = s.observe(digest)
	return a, state == blobGood, nil
}

// markVerified records the current stamp of a blob that was hashed.
func (s *Store) markVerified(digest string) error {
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

// insert moves file into the store under digest, which the caller has verified.
func (s *Store) insert(file, digest string) error {
	// A process that fetches the same content from another source holds another
	// source lock.
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
	if err := hostfs.SyncDir(s.path("sha256")); err != nil {
		return fmt.Errorf("storing artifact: %w", err)
	}
	return s.markVerified(digest)
}

// sealFile makes the file read-only and syncs it.
func sealFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(blobMode), f.Sync(), f.Close())
}

// remember records the content that a source resolves to.
func (s *Store) remember(c *checked, sums digests, files *localFiles) error {
	r := sourceRecord{Source: c.Source, Digest: sums.sha256, Files: files}
	if sums.sha512 != "" {
		if err := s.writeRecord(s.path("sources", "sha512-"+sums.sha512), r); err != nil {
			return err
		}
	}
	return s.writeRecord(s.path("sources", c.key()), r)
}

// readRecord reads a JSON record and reports whether it was readable. A missing
// or damaged record is not an error: every record can be regenerated.
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
		return fmt.Errorf("writing record %s: %w", path, noSpace(err, path, 0))
	}
	return nil
}

// digests are the hexadecimal digests of a file.
type digests struct {
	sha256 string
	sha512 string // empty unless requested
	size   int64
}

// has reports whether the digests match sum.
func (d digests) has(sum checksum) bool {
	if sum.algo == "sha512" {
		return d.sha512 == sum.hex
	}
	return d.sha256 == sum.hex
}

const copyBuffer = 1 << 20

// hashFile hashes a file and reports its progress as StageVerifying.
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
		_, _ = w.Write(buf[:n]) // hash.Hash never returns an error
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
