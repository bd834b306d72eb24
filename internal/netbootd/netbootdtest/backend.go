// SPDX-License-Identifier: Apache-2.0

package netbootdtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/apiserver"
)

// backend implements [apiserver.Backend], so that Server does not export its
// methods.
type backend struct{ s *Server }

func (b backend) Admit(epoch int64) error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.s.registry.Admit(epoch)
}

func (b backend) PutServer(_ context.Context, raw []byte, c *netbootapi.ServerConfig) error {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	if err := s.registry.CheckServer(c); err != nil {
		return err
	}
	s.serverPuts++
	s.registry.PutServer(raw, c)
	return nil
}

func (b backend) PutMachine(_ context.Context, uid string, entry netbootapi.Entry) error {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refuseMachine[uid]; err != nil {
		return err
	}
	a, err := s.registry.CheckMachine(uid, entry)
	if err != nil {
		return err
	}
	s.machinePuts[uid]++
	s.registry.PutMachine(a)
	return nil
}

func (b backend) DeleteMachine(_ context.Context, uid string) error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.registry.DeleteMachine(uid)
	return nil
}

func (b backend) Renew(_ context.Context, c netbootapi.ServerCredentials) error {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuseRenewal != nil {
		return s.refuseRenewal
	}
	if err := s.identity.Replace(c); err != nil {
		return err
	}
	s.registry.EditServer(func(state *netbootapi.State) { state.Credentials = s.identity.Digest() })
	s.registry.Publish()
	return nil
}

func (b backend) Changes(after netbootapi.Position) (netbootapi.Update, <-chan struct{}) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.s.registry.Changes(after), b.s.registry.Changed()
}

func (b backend) Events(after netbootapi.Position) (apiserver.EventBatch, <-chan struct{}) {
	events, lost, changed := b.s.events.After(after)
	return apiserver.EventBatch{Store: b.s.registry.Store(), Lost: lost, Events: events}, changed
}

func (b backend) BlobOffset(blob netbootapi.Blob) (int64, bool, error) {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	whole, err := s.registry.Whole(blob)
	return min(int64(len(s.blobs[blob.Digest])), blob.Size), whole, err
}

func (b backend) WriteBlob(ctx context.Context, blob netbootapi.Blob, offset int64, r io.Reader) error {
	s := b.s
	s.mu.Lock()
	whole, err := s.registry.Whole(blob)
	if err == nil {
		_, err = s.key(blob)
	}
	here := int64(len(s.blobs[blob.Digest]))
	s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case offset != here:
		return fmt.Errorf("%w: %d bytes are stored", netbootapi.ErrOffset, here)
	case whole:
		return nil
	}
	if r, err = s.upload(ctx, blob.Digest, r); err != nil {
		return err
	}
	raw, readErr := io.ReadAll(io.LimitReader(r, max(0, blob.Size-offset)+1))
	s.mu.Lock()
	defer s.mu.Unlock()
	if int64(len(s.blobs[blob.Digest])) != here {
		return netbootapi.ErrOffset
	}
	s.blobs[blob.Digest] = append(s.blobs[blob.Digest], raw...)
	have := int64(len(s.blobs[blob.Digest]))
	if readErr != nil {
		return readErr
	}
	if have < blob.Size {
		return io.ErrUnexpectedEOF
	}
	if have > blob.Size || !s.verify(blob) {
		delete(s.blobs, blob.Digest)
		return netbootapi.ErrDigest
	}
	s.registry.Stored(blob.Digest, blob.Size)
	return nil
}

// key returns the key with which a blob is verified; callers hold mu.
func (s *Server) key(blob netbootapi.Blob) ([]byte, error) {
	if !blob.IsText() {
		return nil, nil
	}
	return s.registry.TextKey()
}

func (s *Server) verify(blob netbootapi.Blob) bool {
	key, err := s.key(blob)
	if err != nil {
		return false
	}
	sum := netbootapi.BlobHash(blob.Digest, key)
	sum.Write(s.blobs[blob.Digest])
	return netbootapi.BlobDigest(blob.Digest, sum) == blob.Digest
}

func (b backend) Metrics() netbootapi.Metrics {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.s.metrics
}

func (b backend) DialTarget(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	b.s.mu.Lock()
	declared := b.s.registry.ByAddr(address.Addr()) != nil
	b.s.mu.Unlock()
	if !declared {
		return nil, fmt.Errorf("%w: %s", netbootapi.ErrNoTarget, address)
	}
	conn, err := b.s.dial(ctx, address)
	if err != nil && !errors.Is(err, netbootapi.ErrUnreachable) {
		err = fmt.Errorf("%w: %w", netbootapi.ErrUnreachable, err)
	}
	return conn, err
}
