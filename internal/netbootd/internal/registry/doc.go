// SPDX-License-Identifier: Apache-2.0

// Package registry holds what one netbootd was given and has observed: the server
// configuration and the entries in force, the state of each machine, and which content
// is stored. It decides which entry is accepted and what changed since a Position. It
// opens no files and does no network I/O; netbootd and netbootdtest both use it, so that
// a test's netbootd accepts and reports what the real one does.
package registry
