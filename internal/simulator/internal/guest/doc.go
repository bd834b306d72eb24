// SPDX-License-Identifier: Apache-2.0

// Package guest is what one simulated machine does from power-on to power-off. It
// executes no guest code, but every packet is real: the firmware's DHCP and TFTP,
// iPXE with its scripts, the installer with the real image stream, which it verifies
// and discards, cloud-init's requests and reports, and an SSH server with host keys.
// TCP/IP is gVisor's netstack; the package only fills in what programs send.
//
// The option sets, their order and the requests are those of OVMF, iPXE, cloud-init
// and pxelab's installer, as captured from real guests (see testdata), and not what
// netbootd expects: the package imports nothing of netbootd.
//
// The firmware boots from the network by PXE over IPv4 only. The package does not
// simulate what a guest computes: neither the boot program nor a kernel is executed, a
// frame of the image that matches its digest is not decompressed, and scripts in
// user-data do not run. A machine at rest has one TCP/IP stack with small buffers, so
// that one process holds a thousand.
package guest
