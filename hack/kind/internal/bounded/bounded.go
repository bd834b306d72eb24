// SPDX-License-Identifier: Apache-2.0

// Package bounded is an OCI runtime for hosts that withhold capabilities from
// everybody: it takes out of a container's specification what nobody can have
// there, and is runc for the rest. Without it a privileged container does not
// start at all on such a host: runc is told to give all capabilities and cannot.
//
// It changes nothing else, and nothing on a host that withholds nothing.
package bounded

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

// Name is what a program that calls Exec is to be called as. Nothing but the
// name tells an engine's call from any other.
const Name = "runc-bounded"

// Exec corrects the specification that args, a command line of runc's, refer
// to, and becomes runc. It only returns when that fails.
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
	return fmt.Errorf("becoming %s: %w", runc, syscall.Exec(runc, append([]string{"runc"}, args...), os.Environ()))
}

// Withheld tells whether this host's bounding set lacks a capability that its
// kernel knows.
func Withheld() (bool, error) {
	held, err := boundingSet()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(capabilities, func(name string) bool { return known(name) && !held[name] }), nil
}

// specification is the file of a container's specification (whole) or of a
// process' that a command line of runc's hands over; "" when it hands over none.
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

// option is the value of an option, in any of the ways to write it.
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

// correct rewrites a specification in place. All that it does not know stays.
func correct(path string, whole bool, held map[string]bool) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	corrected, err := withoutCapabilities(text, whole, held)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
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
		return nil, fmt.Errorf("process: %w", err)
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

// withoutCapabilitiesOf corrects a process, of which text is the original.
func withoutCapabilitiesOf(process map[string]json.RawMessage, text []byte, held map[string]bool) ([]byte, error) {
	raw, ok := process["capabilities"]
	if !ok {
		return text, nil
	}
	var sets map[string][]string
	if err := json.Unmarshal(raw, &sets); err != nil {
		return nil, fmt.Errorf("capabilities: %w", err)
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

var errNoBoundingSet = errors.New("/proc/self/status tells no bounding set (CapBnd)")
