// SPDX-License-Identifier: Apache-2.0

// Command alerts writes the rules of a PrometheusRule as a rule file of Prometheus,
// which promtool can check.
//
//	alerts IN OUT
package main

import (
	"errors"
	"fmt"
	"os"

	"go.yaml.in/yaml/v3"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: alerts IN OUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "alerts:", err)
		os.Exit(1)
	}
}

func run(in, out string) error {
	text, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	rules, err := ruleFile(text)
	if err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	return os.WriteFile(out, rules, 0o644)
}

// ruleFile returns the spec of a PrometheusRule, which has the form of a rule file.
func ruleFile(text []byte) ([]byte, error) {
	var object struct {
		Kind string    `yaml:"kind"`
		Spec yaml.Node `yaml:"spec"`
	}
	if err := yaml.Unmarshal(text, &object); err != nil {
		return nil, err
	}
	if object.Kind != "PrometheusRule" {
		return nil, fmt.Errorf("kind is %q, want PrometheusRule", object.Kind)
	}
	if object.Spec.IsZero() {
		return nil, errors.New("there is no spec")
	}
	return yaml.Marshal(&object.Spec)
}
