// SPDX-License-Identifier: Apache-2.0

// Package kubeconfig writes and removes the admin kubeconfig. It recognises its
// own files and never changes others.
package kubeconfig

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pxelab/pxelab/cmd/controlplane/internal/atomicfile"
)

// marker is the first line of every file written here; only a file that begins
// with it is removed or replaced.
const marker = "# Written by the pxelab control plane at each start; do not edit.\n"

// format needs no YAML quoting: its arguments are a local URL and base64.
const format = marker + `apiVersion: v1
kind: Config
clusters:
- name: pxelab
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: pxelab-admin
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: pxelab
  context:
    cluster: pxelab
    user: pxelab-admin
current-context: pxelab
`

// Admin is the admin's access to an API server.
type Admin struct {
	Server        string // https URL
	CA, Cert, Key []byte // PEM
}

// Write replaces path with mode 0600 and creates its directory with mode 0700 if
// it is missing. A file that this package did not write is an error.
func (a Admin) Write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("creating the kubeconfig's directory: %w", err)
	}
	if _, err := isOwn(path); err != nil {
		return err
	}
	b64 := base64.StdEncoding.EncodeToString
	return atomicfile.Write(path, fmt.Appendf(nil, format, a.Server, b64(a.CA), b64(a.Cert), b64(a.Key)), 0o600)
}

// Remove removes a file that Write wrote, if it exists. A file that this package
// did not write is an error.
func Remove(path string) error {
	exists, err := isOwn(path)
	if err != nil || !exists {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing the kubeconfig of the previous start: %w", err)
	}
	return nil
}

// isOwn reports whether path exists and was written by this package. "kubectl
// config" drops comments when it rewrites a file, so a file edited with it
// counts as the user's.
func isOwn(path string) (bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the kubeconfig to replace: %w", err)
	}
	if !bytes.HasPrefix(data, []byte(marker)) {
		return false, fmt.Errorf("%s was not written by this program, so it is not replaced; set another --kubeconfig, or move the file", path)
	}
	return true, nil
}
