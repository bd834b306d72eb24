// SPDX-License-Identifier: Apache-2.0

// Package namespacetest runs tests in namespaces of their own, where they may change
// networks and mounts. It is for Linux.
package namespacetest
