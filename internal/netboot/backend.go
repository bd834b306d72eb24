// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
)

// backend is the agent protocol's view of the server.
type backend struct{ s *Server }

func (b backend) Apply(_ context.Context, c *agent.Config) error {
	s := b.s
	s.applying.Lock()
	defer s.applying.Unlock()
	if err := c.Validate(); err != nil {
		s.keeper.configFailed(err)
		return err
	}
	if before := s.keeper.current(); before != nil && before.Digest() == c.Digest() {
		s.keeper.configGood()
		return nil
	}
	// On disk first: what was accepted must outlive us.
	if err := s.store.save(fileConfig, c); err != nil {
		s.keeper.configFailed(err)
		return noSpace(err)
	}
	s.adopt(c)
	s.log.Info("configuration in force", "digest", c.Digest(), "machines", len(c.Machines))
	return nil
}

func (b backend) Observe() (agent.State, <-chan struct{}) { return b.s.keeper.observe() }

func (b backend) BlobOffset(digest string) (int64, bool, error) { return b.s.blobs.offset(digest) }

func (b backend) WriteBlob(ctx context.Context, digest string, offset int64, r io.Reader) error {
	return b.s.blobs.write(ctx, digest, offset, r)
}

// dialLimit is how long a connection to a machine may take.
const dialLimit = 15 * time.Second

func (b backend) DialTarget(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	config := b.s.keeper.current()
	if config == nil || !config.Network.Address.Contains(address.Addr()) || b.s.keeper.machineByAddr(address.Addr()) == nil {
		b.s.keeper.refuse("ProxyTarget")
		return nil, fmt.Errorf("%w: %s", agent.ErrNoTarget, address)
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := b.s.options.Dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", agent.ErrUnreachable, err)
	}
	return conn, nil
}
