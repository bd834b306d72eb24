// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/apiserver"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
)

// backend implements [apiserver.Backend] for a Server.
type backend struct{ s *Server }

// Admit saves an epoch before it admits it: a manager that was fenced remains so after a
// restart.
func (b backend) Admit(epoch int64) error {
	s := b.s
	s.fencing.Lock()
	defer s.fencing.Unlock()
	highest, err := s.state.admit(epoch)
	if err != nil || highest == s.savedEpoch {
		return err
	}
	if err := s.store.write(fileEpoch, []byte(strconv.FormatInt(highest, 10)+"\n")); err != nil {
		return err
	}
	s.savedEpoch = highest
	s.log.Info("another manager has taken over", "epoch", highest)
	return nil
}

func (b backend) PutServer(_ context.Context, raw []byte, c *netbootapi.ServerConfig) error {
	s := b.s
	s.applying.Lock()
	defer s.applying.Unlock()
	if err := s.putServer(raw, c); err != nil {
		s.blobs.reserve("", registry.Programs(c))
		return err
	}
	s.blobs.unreserve("")
	return nil
}

// putServer puts a configuration in force; callers hold applying.
func (s *Server) putServer(raw []byte, c *netbootapi.ServerConfig) error {
	if err := s.state.checkServer(c); err != nil {
		return err
	}
	if bytes.Equal(raw, s.state.rawConfig()) {
		return nil
	}
	// Save first: an accepted configuration must survive a restart.
	if err := s.store.write(fileServer, raw); err != nil {
		return err
	}
	s.adoptServer(raw, c)
	s.log.Info("configuration in force", "digest", netbootapi.Digest(raw))
	return nil
}

func (b backend) PutMachine(ctx context.Context, uid string, entry netbootapi.Entry) error {
	s := b.s
	s.applying.Lock()
	defer s.applying.Unlock()
	kept, err := s.putMachine(ctx, uid, entry)
	if entry.Content == nil {
		return err // a content that was refused earlier remains reserved
	}
	if err == nil && !kept {
		s.blobs.unreserve(uid)
	} else if m, invalid := entry.Machine(uid); invalid == nil {
		s.blobs.reserve(uid, append(m.Texts(), m.Files()...))
	}
	return err
}

// putMachine puts the entry of a machine in force, and reports whether an installation in
// progress keeps another content; callers hold applying.
func (s *Server) putMachine(ctx context.Context, uid string, entry netbootapi.Entry) (kept bool, err error) {
	// An installation may begin or end while the entry is saved: what is saved must be
	// what is adopted.
	for ctx.Err() == nil {
		a, err := s.state.checkMachine(uid, entry)
		if err != nil {
			return false, err
		}
		if a.Unchanged {
			return a.Kept, nil
		}
		if err := s.store.write(entryFile(uid), a.Entry.Encode()); err != nil {
			return false, err
		}
		if before, adopted := s.state.putMachine(a); adopted {
			s.released(before)
			s.log.Debug("machine in force", "uid", uid, "content", a.Entry.ContentDigest(), "contentKept", a.Kept)
			return a.Kept, nil
		}
	}
	return false, ctx.Err()
}

func (b backend) DeleteMachine(_ context.Context, uid string) error {
	s := b.s
	s.applying.Lock()
	defer s.applying.Unlock()
	// The entry first: a machine without it is not restored.
	if err := s.store.remove(entryFile(uid)); err != nil {
		return err
	}
	s.blobs.unreserve(uid)
	before := s.state.deleteMachine(uid)
	if before == nil {
		return nil
	}
	s.released(before)
	s.log.Debug("machine removed", "uid", uid, "machine", before.Name)
	s.saving.Lock()
	defer s.saving.Unlock()
	return s.store.remove(observedFile(uid))
}

func (b backend) Changes(after netbootapi.Position) (netbootapi.Update, <-chan struct{}) {
	return b.s.state.changes(after)
}

func (b backend) Events(after netbootapi.Position) (apiserver.EventBatch, <-chan struct{}) {
	events, lost, changed := b.s.state.events.After(after)
	return apiserver.EventBatch{Store: b.s.state.registry.Store(), Lost: lost, Events: events}, changed
}

func (b backend) BlobOffset(blob netbootapi.Blob) (int64, bool, error) { return b.s.blobs.offset(blob) }

func (b backend) WriteBlob(ctx context.Context, blob netbootapi.Blob, offset int64, r io.Reader) error {
	return b.s.blobs.write(ctx, blob, offset, r)
}

// dialLimit bounds connecting to a machine. It has room for five SYNs, because a busy
// network loses some.
const dialLimit = 30 * time.Second

func (b backend) DialTarget(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	if b.s.state.machineByAddr(address.Addr()) == nil {
		b.s.state.refuse("ProxyTarget")
		return nil, fmt.Errorf("%w: %s", netbootapi.ErrNoTarget, address)
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := b.s.options.Dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", netbootapi.ErrUnreachable, err)
	}
	return conn, nil
}
