// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The rights on files by the version of the kernel's interface that added them.
const (
	fsV1 = 1<<13 - 1
	fsV2 = unix.LANDLOCK_ACCESS_FS_REFER
	fsV3 = unix.LANDLOCK_ACCESS_FS_TRUNCATE
	// The rest of the interface.
	netV4   = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	scopeV6 = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
)

const (
	fsRead    = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	fsExecute = fsRead | unix.LANDLOCK_ACCESS_FS_EXECUTE
	fsWrite   = fsRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	fsSockets = unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	// fsOnFiles are the rights that are valid in a rule for a file rather than a
	// directory.
	fsOnFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

var rights = map[Access]uint64{Read: fsRead, Execute: fsExecute, Write: fsWrite, Sockets: fsSockets}

// Version returns the version of the kernel's interface; 0 if it has none, or if it is
// disabled. Linux 5.13 has version 1, which restricts files; 6.7 has version 4, which
// restricts TCP; 6.12 has version 6, which restricts signals and abstract sockets.
func Version() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// Start calls start in a thread to which the policy applies, and so it applies to the
// processes that start starts, but not to this process. They gain no privileges by
// executing other programs. start must not wait for other goroutines to start a process.
func Start(p Policy, start func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The process is taken for what its first thread is, which cannot end: keep it
			// while another one is restricted.
			defer runtime.UnlockOSThread()
			ended <- Start(p, start)
			return
		}
		// The thread ends with the goroutine, which never unlocks it.
		err := restrictThread(p)
		if err == nil {
			err = start()
		}
		ended <- err
	}()
	return <-ended
}

func restrictThread(p Policy) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("denying privileges to a program: %w", err)
	}
	version := Version()
	if err := enforce(p, version); err != nil {
		return fmt.Errorf("confining a program to its files: %w", err)
	}
	if version < 4 {
		return nil
	}
	if err := denyMultipathTCP(); err != nil {
		return fmt.Errorf("confining a program to its ports: %w", err)
	}
	return nil
}

func enforce(p Policy, version int) error {
	if version == 0 {
		return nil
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: fsV1}
	// An older kernel does not know the later fields.
	size := unsafe.Offsetof(attr.Handled_access_net)
	if version >= 2 {
		attr.Handled_access_fs |= fsV2
	}
	if version >= 3 {
		attr.Handled_access_fs |= fsV3
	}
	if version >= 4 {
		attr.Handled_access_net = netV4
		if p.ConnectTCP {
			attr.Handled_access_net &^= unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		}
		size = unsafe.Offsetof(attr.Scoped)
	}
	if version >= 6 {
		attr.Scoped = scopeV6
		size = unsafe.Offsetof(attr.Quiet_access_fs)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return errno
	}
	ruleset := int(fd)
	defer func() { _ = unix.Close(ruleset) }()
	for _, r := range p.Rules {
		err := allowFile(ruleset, r.Path, rights[r.Access]&attr.Handled_access_fs)
		if err != nil && (!r.Optional || !missing(err)) {
			return err
		}
	}
	if version >= 4 {
		for _, port := range p.ListenTCP {
			if err := allowListen(ruleset, port); err != nil {
				return err
			}
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// missing reports whether an error means that the program could not open the file either.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EACCES)
}

// allowFile permits access to a file, or to everything below a directory.
func allowFile(ruleset int, path string, access uint64) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	fd, err := unix.Open(real, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
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

// netPort is struct landlock_net_port_attr of linux/landlock.h.
type netPort struct {
	allowed uint64
	port    uint64
}

func allowListen(ruleset, port int) error {
	const ruleNetPort = 2 // LANDLOCK_RULE_NET_PORT
	rule := netPort{allowed: unix.LANDLOCK_ACCESS_NET_BIND_TCP, port: uint64(port)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), ruleNetPort, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("allowing port %d: %w", port, errno)
	}
	return nil
}
