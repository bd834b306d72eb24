// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// auditArch identifies the system call tables, see linux/audit.h.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

const (
	// Offsets in struct seccomp_data; that of the third argument is of its low half.
	offCall, offArch, offArgument3 = 0, 4, 32
	// x32 is set in the numbers of the x32 system calls on x86-64.
	x32     = 0x40000000
	load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	atLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	ret     = unix.BPF_RET | unix.BPF_K
)

// DenyCalls makes system calls of the calling thread, and of the processes that it starts,
// fail with EPERM by seccomp(2), and so calls from a system call table other than this
// program's. Call it in the function that [Start] calls. A kernel without seccomp, or
// another processor, denies nothing.
func DenyCalls(calls []uint32) error {
	check := make([]unix.SockFilter, len(calls))
	for i, call := range calls {
		check[i] = unix.SockFilter{Code: equal, K: call, Jt: uint8(len(calls) - i)}
	}
	return filter(check)
}

// denyMultipathTCP denies sockets of the protocol that Landlock does not restrict as TCP,
// although it connects to peers that have TCP only.
func denyMultipathTCP() error {
	return filter([]unix.SockFilter{
		{Code: equal, K: unix.SYS_SOCKET, Jf: 2},
		{Code: load, K: offArgument3},
		{Code: equal, K: unix.IPPROTO_MPTCP, Jt: 1},
	})
}

// filter installs a filter. check starts with the number of the call loaded; the call is
// allowed at its end, and denied one instruction further.
func filter(check []unix.SockFilter) error {
	arch, known := auditArch[runtime.GOARCH]
	if !known {
		return nil
	}
	n := len(check)
	program := append([]unix.SockFilter{
		{Code: load, K: offArch},
		{Code: equal, K: arch, Jf: uint8(n + 3)},
		{Code: load, K: offCall},
		{Code: atLeast, K: x32, Jt: uint8(n + 1)},
	}, check...)
	program = append(program,
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&f)), 0, 0)
	runtime.KeepAlive(program)
	if errors.Is(err, unix.EINVAL) { // a kernel without seccomp filters
		return nil
	}
	return err
}
