// SPDX-License-Identifier: Apache-2.0

package registry

import "github.com/pxelab/pxelab/internal/netbootapi"

// CheckServer decides what PutServer of a configuration does, and changes nothing. The
// error wraps ErrInvalid or ErrMissing.
func (r *Registry) CheckServer(c *netbootapi.ServerConfig) error {
	if err := c.Validate(); err != nil {
		return err
	}
	programs := Programs(c)
	if err := r.sizes(programs); err != nil {
		return err
	}
	if missing := r.missing(programs); len(missing) > 0 {
		return &netbootapi.MissingError{Blobs: missing}
	}
	return nil
}

// Programs returns the blobs that a configuration names.
func Programs(c *netbootapi.ServerConfig) []netbootapi.Blob {
	var out []netbootapi.Blob
	for _, p := range c.Programs {
		out = append(out, p.Blob)
	}
	return out
}

// PutServer puts a valid configuration, which was decoded from raw, in force and
// publishes. Machines that do not fit its network are no longer served, those that fit
// again are.
func (r *Registry) PutServer(raw []byte, c *netbootapi.ServerConfig) {
	if r.config != nil {
		r.unname(forServer, Programs(r.config))
	}
	r.config = c
	r.raw = raw
	r.digest = netbootapi.Digest(raw)
	r.name(forServer, Programs(c))
	r.EditServer(func(*netbootapi.State) {})
	for _, m := range r.machines {
		if before := m.state.Problem; r.judge(m) != before {
			r.touch(m)
		}
	}
	r.Publish()
}
