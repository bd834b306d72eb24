// SPDX-License-Identifier: Apache-2.0

// Package unit holds netbootd's systemd unit, apart from netbootd itself so
// that whoever builds a seed need not link a boot server.
package unit

import _ "embed"

// File is the unit's text. It expects the binary as /usr/local/sbin/netbootd
// and the credentials in /etc/netbootd.
//
//go:embed netbootd.service
var File []byte
