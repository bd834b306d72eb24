// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"slices"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu/internal/qmp"
)

// requestBootOrder changes the boot order in the background.
func (m *instance) requestBootOrder(devices []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.record.running() {
		return machine.ErrNotRunning
	}
	if err := m.record.Machine.CheckBootOrder(devices); err != nil {
		return err
	}
	if o := m.order; o != nil && slices.Equal(o.devices, devices) {
		if o.err == nil || time.Now().Before(o.retryAt) {
			return o.err
		}
	}
	o := &bootOrder{devices: slices.Clone(devices)}
	err := m.enqueue(
		func(ctx context.Context) error { return m.setBootOrder(ctx, o.devices) },
		func(err error) { m.endBootOrder(o, err) })
	if err == nil {
		m.order = o
	}
	return err
}

// endBootOrder records the result of a request.
func (m *instance) endBootOrder(o *bootOrder, err error) {
	m.update(func() {
		switch {
		case m.order != o: // another order was requested since
		case err == nil:
			m.order = nil
		default:
			o.err, o.retryAt = err, time.Now().Add(requestPause)
		}
	})
	detail := "boot order"
	if err != nil {
		detail += ": " + err.Error()
		m.local.log.Info("Changing the boot order failed", "machine", m.id, "error", err.Error())
	}
	m.local.publish(m.id, machine.EventChanged, detail)
}

func (m *instance) setBootOrder(ctx context.Context, devices []string) error {
	client, err := m.connected(ctx)
	if err != nil {
		return err
	}
	r, _ := m.snapshot()
	// All indices are cleared first, because QEMU refuses one that is in use.
	for _, id := range r.Machine.BootDevices() {
		if err := setBootIndex(ctx, client, id, -1); err != nil {
			return err
		}
	}
	for i, id := range devices {
		if err := setBootIndex(ctx, client, id, i+1); err != nil {
			return err
		}
	}
	m.update(func() { m.record.BootOrder = slices.Clone(devices) })
	return m.save()
}

func setBootIndex(ctx context.Context, client *qmp.Client, device string, index int) error {
	return client.Commands(ctx).QomSet("/machine/peripheral/"+device, "bootindex", index)
}
