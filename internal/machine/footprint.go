// SPDX-License-Identifier: Apache-2.0

package machine

const (
	// TranslationBufferMiB is the size of the buffer in which software emulation (TCG)
	// keeps translated code. It fills up while the guest runs new code, so it counts in
	// full.
	TranslationBufferMiB = 512
	// processMiB covers the rest of a QEMU process: its code and heap, video memory,
	// and the firmware's flash, which is 128 MiB on AArch64.
	processMiB = 256
)

// SimulatedFootprint is how much of the host's memory a simulated machine takes in
// bytes: its share of a process, with its network buffers.
const SimulatedFootprint int64 = 512 << 10

// Footprint returns how much of the host's memory the process of a machine can take in
// bytes: the guest's memory, of which guests touch all sooner or later, and the overhead
// of the accelerator and of QEMU. An accelerator that is not known counts as emulation,
// which takes most.
func Footprint(memoryMiB int, a Accelerator) int64 {
	mib := int64(memoryMiB) + processMiB
	if a == TCG || a == "" {
		mib += TranslationBufferMiB
	}
	return mib << 20
}
