// SPDX-License-Identifier: Apache-2.0

// Package ociruntime is an OCI runtime for hosts whose capability bounding set is
// restricted: it removes the capabilities that no process can have there from a
// container's specification, and then runs runc. Without it a privileged
// container does not start on such a host, because runc fails to grant all
// capabilities.
//
// It changes nothing else, and nothing on a host without such a restriction.
package ociruntime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Name is the name by which a program that calls Exec must be invoked. Only the
// name distinguishes an engine's invocation from any other.
const Name = "runc-bounded"

// Exec corrects the specification that args, a runc command line, refers to, and
// replaces this process by runc. It returns only if that fails.
func Exec(args []string) error {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	held, err := boundingSet()
	if err != nil {
		return err
	}
	if path, whole := specification(args); path != "" {
		if err := correct(path, whole, held); err != nil {
			return err
		}
	}
	return fmt.Errorf("executing %s: %w", runc, syscall.Exec(runc, append([]string{"runc"}, args...), os.Environ()))
}

// Withheld reports whether this host's bounding set lacks a capability that its
// kernel has.
func Withheld() (bool, error) {
	held, err := boundingSet()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(capabilities, func(name string) bool { return known(name) && !held[name] }), nil
}

// specification returns the path of the container specification (whole) or the
// process specification in a runc command line, or "".
func specification(args []string) (path string, whole bool) {
	command := slices.IndexFunc(args, func(arg string) bool {
		return slices.Contains([]string{"create", "run", "restore", "exec"}, arg)
	})
	if command < 0 {
		return "", false
	}
	rest := args[command+1:]
	if args[command] == "exec" {
		return option(rest, "process", "p"), false
	}
	return filepath.Join(option(rest, "bundle", "b"), "config.json"), true
}

// option returns the value of an option in any of its notations.
func option(args []string, long, short string) string {
	for i, arg := range args {
		name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !strings.HasPrefix(arg, "-") || name != long && name != short {
			continue
		}
		if joined {
			return value
		}
		if i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// correct rewrites a specification in place. It keeps fields unknown to it.
func correct(path string, whole bool, held map[string]bool) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	corrected, err := withoutCapabilities(text, whole, held)
	if err != nil {
		return fmt.Errorf("correcting %s: %w", path, err)
	}
	if bytes.Equal(text, corrected) {
		return nil
	}
	return os.WriteFile(path, corrected, 0o600)
}

func withoutCapabilities(text []byte, whole bool, held map[string]bool) ([]byte, error) {
	var spec map[string]json.RawMessage
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, err
	}
	if !whole {
		return withoutCapabilitiesOf(spec, text, held)
	}
	var process map[string]json.RawMessage
	if err := json.Unmarshal(spec["process"], &process); err != nil {
		return nil, fmt.Errorf("parsing process: %w", err)
	}
	corrected, err := withoutCapabilitiesOf(process, spec["process"], held)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(corrected, spec["process"]) {
		return text, nil
	}
	spec["process"] = corrected
	return json.Marshal(spec)
}

// withoutCapabilitiesOf corrects a process, whose original JSON is text.
func withoutCapabilitiesOf(process map[string]json.RawMessage, text []byte, held map[string]bool) ([]byte, error) {
	raw, ok := process["capabilities"]
	if !ok {
		return text, nil
	}
	var sets map[string][]string
	if err := json.Unmarshal(raw, &sets); err != nil {
		return nil, fmt.Errorf("parsing capabilities: %w", err)
	}
	changed := false
	for name, set := range sets {
		kept := slices.DeleteFunc(slices.Clone(set), func(capability string) bool { return !held[capability] })
		changed = changed || len(kept) < len(set)
		sets[name] = kept
	}
	if !changed {
		return text, nil
	}
	var err error
	if process["capabilities"], err = json.Marshal(sets); err != nil {
		return nil, err
	}
	return json.Marshal(process)
}

var errNoBoundingSet = errors.New("/proc/self/status contains no bounding set (CapBnd)")
