// SPDX-License-Identifier: Apache-2.0

package content

import _ "embed"

// netbootdUnit is netbootd's systemd unit. It expects the program as
// /usr/local/sbin/netbootd and the credentials in /etc/netbootd, which it passes to the
// program's unprivileged user. It is kept here
// rather than with netbootd, so that the manager, which writes the seed, does
// not link a boot server.
//
//go:embed netbootd.service
var netbootdUnit []byte
