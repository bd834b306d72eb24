// SPDX-License-Identifier: Apache-2.0

// Package installer writes a disk image to the machine it runs on. It is PID 1
// of a distribution's own kernel and initrd, from which it uses only the kernel
// modules: no shell, no udev, no program of the initrd.
//
// It loads the drivers for network and disks, applies the network settings that
// iPXE left on the kernel command line, fetches its plan, streams the image to
// the disk and verifies it there, grows the root partition and its file system,
// points the installed system's cloud-init at the server, and hands the machine
// over by reset or kexec. It reports progress and failures to the server and
// prints them on every console.
//
// It is not interactive, and it preserves nothing that was on the disk.
package installer
