// SPDX-License-Identifier: Apache-2.0

// Package apiserver serves the netboot API over mutual TLS on behalf of a
// Backend: netbootd, or netbootdtest in tests.
package apiserver
