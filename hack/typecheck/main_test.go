// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// TestCheck has a function body that is wrong on one platform only, in a package
// that is only imported.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":              "module example.com/m\n",
		"main.go":             "package main\n\nimport \"example.com/m/part\"\n\nfunc main() { part.Do() }\n",
		"part/part_linux.go":  "package part\n\nfunc Do() {}\n",
		"nothing/README":      "no package\n",
		"part/part_darwin.go": "package part\n\nimport \"fmt\"\n\nfunc Do() { fmt.Println(missing) }\n",
	} {
		path := filepath.Join(dir, name)
		assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		assert.NilError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	env := func(system string) []string {
		return append(os.Environ(), "GOWORK=off", "GOOS="+system, "CGO_ENABLED=0")
	}

	checked, err := check(dir, env("linux"), []string{"."})
	assert.NilError(t, err)
	assert.Assert(t, checked >= 2, "%d packages", checked)

	_, err = check(dir, env("darwin"), []string{"."})
	assert.ErrorContains(t, err, "undefined: missing")
	assert.Assert(t, strings.Contains(err.Error(), "part_darwin.go:5:"), err)

	_, err = check(dir, env("linux"), []string{"./nothing/..."})
	assert.ErrorContains(t, err, "no packages match")
}
