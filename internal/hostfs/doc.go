// SPDX-License-Identifier: Apache-2.0

// Package hostfs contains the file system operations that several packages need and
// that the standard library lacks: private directories, UNIX socket files, free and
// used space, sparse files and durable renames. It supports Linux and macOS.
package hostfs
