// SPDX-License-Identifier: Apache-2.0

// Package tftp implements a read-only TFTP server (RFC 1350 with the options of
// RFC 2347, 2348, 2349 and 7440) for network boot. It refuses writes and
// netascii. Its [Handler] decides which files exist.
package tftp
