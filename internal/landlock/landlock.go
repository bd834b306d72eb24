// SPDX-License-Identifier: Apache-2.0

// Package landlock restricts which files a program may open, and which TCP connections it
// may make, with Linux's landlock(7). A restriction needs no privileges and cannot be
// removed. Where the kernel does not have it, or only a part of it, the rest applies:
// callers report [Version] to users. It does not decide what a program needs.
package landlock

// Access is what a program may do with a file, or with the files below a directory.
type Access int

// The kinds of access. A program that may execute may also read.
const (
	Read Access = iota
	// Execute is Read and execution.
	Execute
	// Write is Read, and changing and truncating files that exist.
	Write
	// Sockets is creating and removing UNIX sockets in a directory, and removing other
	// files there.
	Sockets
)

// Rule permits access to a file, or to everything below a directory.
type Rule struct {
	Path   string
	Access Access
	// Optional rules apply only if the path exists and is accessible.
	Optional bool
}

// Policy is what a program may do. Everything else that the kernel can restrict is denied:
// opening other files, TCP, signals to processes and abstract UNIX sockets that are not the
// program's.
type Policy struct {
	Rules []Rule
	// ListenTCP are the ports on which it may listen.
	ListenTCP []int
	// ConnectTCP permits TCP connections to anywhere.
	ConnectTCP bool
}

// System are rules for the files that a program needs to be loaded and to run.
func System() []Rule {
	var rules []Rule
	for _, path := range []string{
		"/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store",
		"/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/gnutls", "/etc/crypto-policies", "/etc/ssl/openssl.cnf",
		"/dev/urandom", "/dev/zero",
	} {
		rules = append(rules, Rule{Path: path, Access: Execute, Optional: true})
	}
	return append(rules, Rule{Path: "/dev/null", Access: Write})
}
