// SPDX-License-Identifier: Apache-2.0

// Package netbootdtest is an in-memory netbootd for tests of its clients. It
// serves the real netboot API over mutual TLS, accepts and keeps what is put as netbootd
// does, and reports the states that the test sets. It boots nothing.
package netbootdtest
