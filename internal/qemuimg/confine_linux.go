// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// systemFiles are the files and directories that a program needs to be loaded
// and to run. The program may read and execute them.
var systemFiles = []string{
	"/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store",
	"/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/gnutls", "/etc/crypto-policies", "/etc/ssl/openssl.cnf",
	"/dev/urandom", "/dev/zero",
}

// Landlock access rights from linux/landlock.h; newer ABI versions add more.
const (
	fsReadFile = unix.LANDLOCK_ACCESS_FS_READ_FILE
	fsRead     = fsReadFile | unix.LANDLOCK_ACCESS_FS_READ_DIR
	fsWrite    = fsReadFile | unix.LANDLOCK_ACCESS_FS_WRITE_FILE
	fsV1       = 1<<13 - 1
	fsRefer    = 1 << 13 // version 2
	fsTruncate = 1 << 14 // version 3
	netTCP     = 1<<0 | 1<<1
	// fsOnFiles are the rights that are valid in a rule for a file rather than a
	// directory.
	fsOnFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | fsReadFile | fsTruncate
)

// startConfined starts a program that can open only system files and f, cannot
// create sockets, and gains no privileges by executing other programs. It uses
// what the kernel offers unprivileged users: Landlock, since Linux 5.13, and
// seccomp. On older kernels only the caller's limits apply.
//
// Both apply to a thread and the processes that it starts. The thread ends with
// the goroutine, which never unlocks it.
func startConfined(cmd *exec.Cmd, f files) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := confineThread(f)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	return <-started
}

// confines reports whether the kernel can restrict file access.
func confines() bool { return landlockVersion() > 0 }

func landlockVersion() int {
	const askVersion = 1
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, askVersion)
	if errno != 0 {
		return 0
	}
	return int(v)
}

func confineThread(f files) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("confining qemu-img: %w", err)
	}
	if err := restrictFiles(f); err != nil {
		return fmt.Errorf("confining qemu-img to its files: %w", err)
	}
	if err := restrictCalls(); err != nil {
		return fmt.Errorf("confining the system calls of qemu-img: %w", err)
	}
	return nil
}

// restrictFiles restricts the file access of the thread with landlock(7).
func restrictFiles(f files) error {
	version := landlockVersion()
	if version == 0 {
		return nil
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: fsV1}
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if version >= 2 {
		attr.Handled_access_fs |= fsRefer
	}
	if version >= 3 {
		attr.Handled_access_fs |= fsTruncate
	}
	if version >= 4 {
		attr.Handled_access_net = netTCP
		size += unsafe.Sizeof(attr.Handled_access_net)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return errno
	}
	ruleset := int(fd)
	defer func() { _ = unix.Close(ruleset) }()
	for _, path := range systemFiles {
		err := allow(ruleset, path, (fsRead|unix.LANDLOCK_ACCESS_FS_EXECUTE)&attr.Handled_access_fs)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	for access, paths := range map[uint64][]string{
		fsReadFile: f.read,
		fsReadFile | unix.LANDLOCK_ACCESS_FS_EXECUTE:    {f.program},
		(fsWrite | fsTruncate) & attr.Handled_access_fs: append([]string{"/dev/null"}, f.write...),
	} {
		for _, path := range paths {
			if err := allow(ruleset, path, access); err != nil {
				return err
			}
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// allow permits access to a file, or to everything below a directory.
func allow(ruleset int, path string, access uint64) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	fd, err := unix.Open(real, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= fsOnFiles
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("allowing %s: %w", path, errno)
	}
	return nil
}

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

// auditArch identifies the system call tables, see linux/audit.h.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// restrictCalls restricts the system calls of the thread with seccomp(2): denied
// calls, and calls from a system call table other than this program's, fail with
// EPERM.
func restrictCalls() error {
	arch, known := auditArch[runtime.GOARCH]
	if !known {
		return nil
	}
	const (
		// Offsets in struct seccomp_data.
		offCall, offArch = 0, 4
		// x32 is set in the numbers of the x32 system calls on x86-64.
		x32     = 0x40000000
		load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		atLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		ret     = unix.BPF_RET | unix.BPF_K
	)
	n := len(deniedCalls)
	program := []unix.SockFilter{
		{Code: load, K: offArch},
		{Code: equal, K: arch, Jf: uint8(n + 3)},
		{Code: load, K: offCall},
		{Code: atLeast, K: x32, Jt: uint8(n + 1)},
	}
	for i, call := range deniedCalls {
		program = append(program, unix.SockFilter{Code: equal, K: call, Jt: uint8(n - i)})
	}
	program = append(program,
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0)
	runtime.KeepAlive(program)
	if errors.Is(err, unix.EINVAL) { // a kernel without seccomp filters
		return nil
	}
	return err
}
