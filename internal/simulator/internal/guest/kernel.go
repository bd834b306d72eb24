// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"strings"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// startKernel is what a kernel does until its first program runs.
func (g *Guest) startKernel(ctx context.Context, cmdline string) error {
	g.serial.line("EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path")
	g.kernelLine("Linux version 6.12.0 (simulated) (pxelab) #1 SMP")
	g.kernelLine("Command line: %s", cmdline)
	g.kernelLine("smp: Brought up 1 node, %d CPUs", max(1, g.config.CPUs))
	g.kernelLine("Memory: %dK/%dK available", max(1, g.config.MemoryMiB)<<10, max(1, g.config.MemoryMiB)<<10)
	if err := pause(ctx, g.config.Options.BootDelay); err != nil {
		return err
	}
	if g.faults[ResetLoop] {
		// A real kernel takes a moment too, in which the lab notices that it was fetched.
		if err := pause(ctx, g.pass); err != nil {
			return err
		}
		return resetError{"the kernel reset the machine"}
	}
	return nil
}

// runKernel runs a kernel that was booted from the network, whose only known program
// is the installer.
func (g *Guest) runKernel(ctx context.Context, cmdline string) error {
	if err := g.startKernel(ctx, cmdline); err != nil {
		return err
	}
	for _, word := range strings.Fields(cmdline) {
		if word == "rdinit="+installerapi.InitPath {
			return g.runInstaller(ctx, cmdline)
		}
	}
	g.kernelLine("Run /init as init process")
	return halt(ctx)
}
