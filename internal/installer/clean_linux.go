// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"fmt"
	"os"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// clean erases what the plan requires on the disk. Without it, Prepare alone removes what
// the image does not replace, at the beginning and the end of the disk.
func (m *machine) clean(ctx context.Context, device *BlockDevice, d Disk) error {
	var spans []span
	switch m.plan.Cleaning {
	case "", installerapi.CleanNone:
		return nil
	case installerapi.CleanMetadata:
		f, err := os.Open(d.Path())
		if err != nil {
			return fmt.Errorf("cleaning %s: %w", d.Name, err)
		}
		defer f.Close()
		spans = signatureSpans(f, d.Size)
	case installerapi.CleanFull:
		spans = []span{{0, d.Size}}
	default:
		return fmt.Errorf("cleaning %s: this installer does not know %q", d.Name, m.plan.Cleaning)
	}
	m.reporter.SetTotal(totalLength(spans))
	m.reporter.Enter(installerapi.StageClean, m.plan.Cleaning+" of "+d.String())
	if m.plan.Cleaning == installerapi.CleanFull {
		device.discardAll(ctx)
	}
	if err := device.erase(ctx, spans, m.reporter.AddWritten); err != nil {
		return fmt.Errorf("cleaning %s: %w", d.Name, err)
	}
	return nil
}

// discardAll discards the whole disk if it supports that. It is an optimization:
// discarded blocks need not read as zeros.
func (b *BlockDevice) discardAll(ctx context.Context) {
	if sysfsNumber("/sys/block/"+b.disk.Name+"/queue/discard_max_bytes") == 0 {
		return
	}
	if err := inSteps(ctx, 0, b.disk.Size, discardStep, b.discard); err != nil {
		b.log(fmt.Sprintf("discarding %s failed: %v", b.disk.Name, err))
	}
}

// eraseStep bounds the time between two calls of erased on a disk that spins.
const eraseStep = 128 << 20

// erase makes ranges read as zeros, also after a power-off, and calls erased with the
// length of each part.
func (b *BlockDevice) erase(ctx context.Context, spans []span, erased func(int64)) error {
	for _, s := range spans {
		err := inSteps(ctx, s.offset, s.length, eraseStep, func(offset, length int64) error {
			if err := b.zero(offset, length); err != nil {
				return fmt.Errorf("zeroing %d bytes at %d: %w", length, offset, err)
			}
			erased(length)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return b.Flush()
}
