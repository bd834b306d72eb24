// SPDX-License-Identifier: Apache-2.0

// Package kubeconfig writes the file that lets kubectl in, and knows its own
// files from those of others, which it never touches.
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
// with it is ever removed or replaced.
const marker = "# Written by the pxelab control plane at each start; do not edit.\n"

// format needs no YAML quoting: a URL of ours and base64.
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

// Admin is the admin's way to an API server.
type Admin struct {
	Server        string // https URL
	CA, Cert, Key []byte // PEM
}

// Write replaces path, mode 0600, and makes its directory (0700) if need be. A
// file there that was not written here is an error.
func (a Admin) Write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making the kubeconfig's directory: %w", err)
	}
	if _, err := ours(path); err != nil {
		return err
	}
	b64 := base64.StdEncoding.EncodeToString
	return atomicfile.Write(path, fmt.Appendf(nil, format, a.Server, b64(a.CA), b64(a.Cert), b64(a.Key)), 0o600)
}

// Remove removes a file that Write wrote, if it is there. A file of somebody
// else is an error.
func Remove(path string) error {
	exists, err := ours(path)
	if err != nil || !exists {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing the kubeconfig of the last start: %w", err)
	}
	return nil
}

// ours tells whether there is a file of ours at path. kubectl config drops
// comments when it rewrites a file, so one that was changed by hand counts as
// the user's.
func ours(path string) (bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking at the kubeconfig to replace: %w", err)
	}
	if !bytes.HasPrefix(data, []byte(marker)) {
		return false, fmt.Errorf("%s was not written by this program and is left alone; give another --kubeconfig, or move it away", path)
	}
	return true, nil
}
