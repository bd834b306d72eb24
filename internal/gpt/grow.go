// SPDX-License-Identifier: Apache-2.0

package gpt

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	// swapHeader is the size of the largest header of swap: one page.
	swapHeader = 64 << 10
	// moveAlignment is that of the beginning of a moved partition, in bytes.
	moveAlignment = 1 << 20
)

// Growth is the result of Grow.
type Growth struct {
	// Partition is the partition after growing, and Bytes how much it grew.
	Partition Partition
	Bytes     int64
	// Moved has the swap partitions that were moved to the end of the disk.
	Moved []Partition
	// Kept is the reason why the partition is not grown even if there is space;
	// empty otherwise.
	Kept string
}

// Grow moves the backup table to the end of the disk and grows a partition up to the
// next one, or to the end of the usable space. Swap that follows the partition is moved
// to the end of the disk first. It is idempotent: on a table that already fills its disk
// it writes the same bytes again. It writes the backup first, so that one of the two
// tables is valid at any moment.
func (t *Table) Grow(number int) (Growth, error) {
	array := t.blocks(int64(t.arrayBytes()))
	lastUsable := t.diskBlocks - 2 - array
	ps := t.Partitions()
	if err := check(ps, lastUsable); err != nil {
		return Growth{}, err
	}
	at := -1
	for i, p := range ps {
		if p.Number == number {
			at = i
		}
	}
	if at < 0 {
		return Growth{}, fmt.Errorf("the partition table has no partition %d", number)
	}
	g := Growth{Partition: ps[at]}
	followers := ps[at+1:]
	if p, ok := firstUnmovable(followers); ok {
		g.Kept = fmt.Sprintf("partition %d, %s, follows it", p.Number, p.Kind())
	} else if err := t.extend(&g, followers, lastUsable); err != nil {
		return Growth{}, err
	}
	h := t.header
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[32:], uint64(t.diskBlocks-1))
	le.PutUint64(h[48:], uint64(lastUsable))
	le.PutUint32(h[88:], crc32.ChecksumIEEE(t.entries[:t.arrayBytes()]))
	return g, t.write(t.diskBlocks - 1 - array)
}

func check(ps []Partition, lastUsable int64) error {
	if len(ps) == 0 {
		return errors.New("the partition table has no partitions")
	}
	for i, p := range ps {
		if p.First < 1 || p.Last < p.First {
			return fmt.Errorf("partition %d has an invalid range, block %d to %d", p.Number, p.First, p.Last)
		}
		if p.Last > lastUsable {
			return fmt.Errorf("partition %d ends at block %d, after the disk's last usable block %d", p.Number, p.Last, lastUsable)
		}
		if i > 0 && p.First <= ps[i-1].Last {
			return fmt.Errorf("partitions %d and %d overlap", ps[i-1].Number, p.Number)
		}
	}
	return nil
}

func firstUnmovable(ps []Partition) (Partition, bool) {
	for _, p := range ps {
		if p.Kind() != KindSwap {
			return p, true
		}
	}
	return Partition{}, false
}

// extend moves the followers, which are swap, to the end of the disk and sets the end of
// the partition in the table. It moves none if that gains nothing, or if one has
// content other than swap.
func (t *Table) extend(g *Growth, followers []Partition, lastUsable int64) error {
	type move struct {
		to     Partition
		header []byte
	}
	end := lastUsable + 1 // exclusive
	var moves []move
	for i := len(followers) - 1; i >= 0; i-- {
		p := followers[i]
		header, ok, err := t.swapHeader(p)
		if err != nil {
			return err
		}
		if !ok {
			g.Kept = fmt.Sprintf("partition %d, which follows it, has the type of swap and other content", p.Number)
			return nil
		}
		step := max(1, moveAlignment/t.blockSize)
		size := p.Last - p.First + 1
		p.First = (end - size) / step * step
		p.Last = p.First + size - 1
		end = p.First
		moves = append(moves, move{p, header})
	}
	step := max(1, alignment/t.blockSize)
	last := end/step*step - 1
	if last <= g.Partition.Last {
		return nil
	}
	if len(followers) > 0 && end <= followers[0].First {
		return nil // the disk is not larger than the image
	}
	for _, m := range moves {
		if _, err := t.disk.WriteAt(m.header, m.to.First*t.blockSize); err != nil {
			return fmt.Errorf("moving swap partition %d: %w", m.to.Number, err)
		}
		t.place(m.to)
		g.Moved = append(g.Moved, m.to)
	}
	g.Bytes = (last - g.Partition.Last) * t.blockSize
	g.Partition.Last = last
	t.place(g.Partition)
	return nil
}

// place sets the range of a partition in the table.
func (t *Table) place(p Partition) {
	e := t.entries[(p.Number-1)*t.entrySize:]
	le.PutUint64(e[32:], uint64(p.First))
	le.PutUint64(e[40:], uint64(p.Last))
}

// swapHeader returns the beginning of a swap partition, which holds its UUID and label;
// ok is false if the partition has other content. One without a header is formatted by
// the installed system.
func (t *Table) swapHeader(p Partition) (header []byte, ok bool, err error) {
	header = make([]byte, min(swapHeader, (p.Last-p.First+1)*t.blockSize))
	if _, err := t.disk.ReadAt(header, p.First*t.blockSize); err != nil {
		return nil, false, fmt.Errorf("reading swap partition %d: %w", p.Number, err)
	}
	for page := 4096; page <= len(header); page *= 2 {
		if bytes.Equal(header[page-10:page], []byte("SWAPSPACE2")) {
			return header, true, nil
		}
	}
	return header, len(bytes.Trim(header, "\x00")) == 0, nil
}
