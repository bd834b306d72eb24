// SPDX-License-Identifier: Apache-2.0

package l2switch

import "reflect"

// Totals are the sums of the counters of all ports, of those that were removed as well.
// They never decrease.
type Totals struct {
	RxFrames, RxBytes, TxFrames, TxBytes uint64
	Drops                                Drops
}

// Totals returns the sums of the counters since the switch was created.
func (s *Switch) Totals() Totals {
	s.mu.Lock() // a port that is being removed is counted once
	defer s.mu.Unlock()
	sum := s.removed
	for _, p := range s.byName {
		sum.add(p.stats())
	}
	return sum
}

func (t *Totals) add(p PortStats) {
	t.RxFrames += p.RxFrames
	t.RxBytes += p.RxBytes
	t.TxFrames += p.TxFrames
	t.TxBytes += p.TxBytes
	sum, part := reflect.ValueOf(&t.Drops).Elem(), reflect.ValueOf(p.Drops)
	for i := range sum.NumField() {
		sum.Field(i).SetUint(sum.Field(i).Uint() + part.Field(i).Uint())
	}
}

// ByKind returns the counters by their names, zeros included.
func (d Drops) ByKind() map[string]uint64 {
	counters := reflect.ValueOf(d)
	kinds := map[string]uint64{}
	for i := range counters.NumField() {
		kinds[counters.Type().Field(i).Name] = counters.Field(i).Uint()
	}
	return kinds
}
