// SPDX-License-Identifier: Apache-2.0

package namespacetest

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// environment is set in a process that runs in the namespaces.
const environment = "PXELAB_TEST_NAMESPACE"

// Inside reports whether this process runs in the namespaces.
func Inside() bool { return os.Getenv(environment) != "" }

// Enter runs the calling test again in new namespaces, of the kinds in flags (clone(2)),
// and reports whether this is that run. The calling run fails if the other one does.
func Enter(t *testing.T, flags uintptr) bool {
	t.Helper()
	if Inside() {
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	Prepare(cmd, flags)
	out, err := cmd.CombinedOutput()
	t.Logf("in namespaces of its own:\n%s", out)
	if errors.Is(err, syscall.EPERM) {
		t.Fatalf("creating namespaces as an unprivileged user: %v; allow it with sysctl "+
			"kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// Prepare makes a command of the test's own program run in new namespaces. A user
// namespace gives an unprivileged user the capabilities.
func Prepare(cmd *exec.Cmd, flags uintptr) {
	cmd.Env = append(cmd.Environ(), environment+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
}
