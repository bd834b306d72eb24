// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pxelab/pxelab/internal/machine"
)

// setAsideAge is how long a damaged record of a machine is kept for examination.
const setAsideAge = 30 * 24 * time.Hour

// removeSetAside removes damaged records that were set aside long ago and have a successor.
// One without a successor is the only sign of its machine, with which it is removed.
func (h *housekeeper) removeSetAside(ctx context.Context) error {
	machines, err := filesIn(filepath.Join(h.host.DataDir, "machines"))
	if err != nil {
		return fmt.Errorf("listing damaged records: %w", err)
	}
	var errs []error
	for _, dir := range machines {
		files, err := filesIn(dir, machine.UnusableSuffix)
		errs = append(errs, err)
		for _, path := range files {
			errs = append(errs, h.removeExpired(ctx, path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing damaged records: %w", err)
	}
	return nil
}

// removeExpired removes a record that was set aside, unless it is needed or recent.
func (h *housekeeper) removeExpired(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if err == nil {
		_, err = os.Lstat(strings.TrimSuffix(path, machine.UnusableSuffix))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since, or without a successor
	}
	if err != nil {
		return err
	}
	if h.host.Now().Sub(info.ModTime()) < setAsideAge {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ctrl.LoggerFrom(ctx).Info("Removed a damaged record that was set aside", "file", path, "since", info.ModTime())
	return nil
}
