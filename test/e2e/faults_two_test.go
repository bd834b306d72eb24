// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/pxelab/pxelab/internal/process"
)

// secondOnData starts a second manager on the lab's data directory.
func secondOnData(x *trial) {
	out := x.secondManager(x.data)
	if !strings.Contains(out, x.data) || !strings.Contains(out, "another") {
		x.Errorf("want the second manager to report that another one uses %s, got:\n%s", x.data, out)
	}
}

// secondOnCluster starts a manager with another data directory on the lab's
// cluster.
func secondOnCluster(x *trial) {
	out := x.secondManager(x.TempDir())
	if !strings.Contains(out, x.data) || !strings.Contains(out, "managed from another data directory") {
		x.Errorf("want the second manager to report that the cluster is managed from %s, got:\n%s", x.data, out)
	}
}

// secondManager starts a second manager on a data directory, and returns its
// output. It must exit with an error, and the first one must not be affected.
func (x *trial) secondManager(data string) string {
	x.Helper()
	was := x.program(x, manager)
	ctx, cancel := context.WithTimeout(x.Context(), guestLimit)
	defer cancel()
	var out bytes.Buffer
	cmd := x.command(ctx, "bin/manager", "--data-dir", data, "--runtime-dir", filepath.Join(x.runtime, "second"),
		"--kubeconfig", x.kubeconfig, "--images-dir", x.TempDir(), "--programs-dir", filepath.Join(x.root, "bin"))
	cmd.Stdout, cmd.Stderr = &out, &out
	x.markFault()
	err := cmd.Run()
	x.recovered(time.Now())
	if err == nil || ctx.Err() != nil {
		x.Errorf("second manager: got error %v, want it to exit with one:\n%s", err, out.String())
	}
	if !process.Alive(was) || x.program(x, manager) != was {
		x.Error("the first manager did not survive the start of the second")
	}
	return out.String()
}
