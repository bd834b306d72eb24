// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"fmt"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/landlock"
)

// startConfined starts a program that can open only system files and f, cannot
// create sockets, and gains no privileges by executing other programs. It uses
// what the kernel offers unprivileged users: Landlock, since Linux 5.13, and
// seccomp. On older kernels only the caller's limits apply.
func startConfined(cmd *exec.Cmd, f files) error {
	rules := append(landlock.System(), landlock.Rule{Path: f.program, Access: landlock.Execute})
	for _, path := range f.read {
		rules = append(rules, landlock.Rule{Path: path, Access: landlock.Read})
	}
	for _, path := range f.write {
		rules = append(rules, landlock.Rule{Path: path, Access: landlock.Write})
	}
	return landlock.Start(landlock.Policy{Rules: rules}, func() error {
		if err := landlock.DenyCalls(deniedCalls); err != nil {
			return fmt.Errorf("confining the system calls of qemu-img: %w", err)
		}
		return cmd.Start()
	})
}

// confines reports whether the kernel can restrict file access.
func confines() bool { return landlock.Version() > 0 }

// deniedCalls are system calls that are not needed to read and write files.
var deniedCalls = []uint32{
	unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT, unix.SYS_ACCEPT4,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_UNSHARE, unix.SYS_SETNS,
	unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
}
