// SPDX-License-Identifier: Apache-2.0

// Package seriallog finds the reason in a machine's serial log why the machine
// does not boot: no DHCP offer, a failed transfer, iPXE's error codes, kernel
// panics, emergency shells, and failures of the installer and cloud-init.
//
// A guest's output is untrusted: escape sequences, binary data, endless lines, or
// texts chosen to mislead. The package therefore only explains. It limits and
// cleans everything it returns and redacts secrets. A finding must not cause an
// action on another machine or on the host.
package seriallog
