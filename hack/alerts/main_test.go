// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/pxelab/pxelab/internal/metrics"
)

// rule is an alerting rule.
type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func read(t *testing.T, elements ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, elements...)...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// alerts returns the rules of the project.
func alerts(t *testing.T) []rule {
	t.Helper()
	text, err := ruleFile(read(t, "config", "prometheus", "rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("got no rules, want those of the project")
	}
	return all
}

func TestRuleFileOfOtherObjects(t *testing.T) {
	for _, text := range []string{"kind: ServiceMonitor\nspec: {}\n", "kind: PrometheusRule\n", "\t"} {
		if out, err := ruleFile([]byte(text)); err == nil {
			t.Errorf("%q: got %q, want an error", text, out)
		}
	}
}

// Each alert is explained in docs/troubleshooting.md, to which it refers, and no other is.
func TestAlertsAreDocumented(t *testing.T) {
	const base = "https://github.com/pxelab/pxelab/blob/main/docs/troubleshooting.md#"
	var named []string
	for _, r := range alerts(t) {
		named = append(named, r.Alert)
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s: got annotations %v, want a summary and a description", r.Alert, r.Annotations)
		}
		if got, want := r.Annotations["runbook_url"], base+strings.ToLower(r.Alert); got != want {
			t.Errorf("%s: got runbook %s, want %s", r.Alert, got, want)
		}
		if !slices.Contains([]string{"warning", "critical"}, r.Labels["severity"]) {
			t.Errorf("%s: got severity %q, want warning or critical", r.Alert, r.Labels["severity"])
		}
	}
	var documented []string
	for _, heading := range regexp.MustCompile(`(?m)^### (Pxelab\w+)$`).FindAllStringSubmatch(string(read(t, "docs", "troubleshooting.md")), -1) {
		documented = append(documented, heading[1])
	}
	if diff := cmp.Diff(named, documented); diff != "" {
		t.Errorf("sections of docs/troubleshooting.md (-alerts +sections):\n%s", diff)
	}
}

// Every metric of an alert exists.
func TestAlertsUseExistingMetrics(t *testing.T) {
	known := map[string]bool{}
	for _, f := range metrics.Families() {
		known[f.Name] = true
	}
	for _, r := range alerts(t) {
		names := regexp.MustCompile(`pxelab_\w+`).FindAllString(r.Expr, -1)
		if len(names) == 0 {
			t.Errorf("%s: got no metric in %q, want one", r.Alert, r.Expr)
		}
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s: there is no metric %s", r.Alert, name)
			}
		}
	}
}

// Every alert fires in a test of promtool, and is silent in another.
func TestAlertsAreTested(t *testing.T) {
	var file struct {
		Tests []struct {
			Alerts []struct {
				Name string `yaml:"alertname"`
				Want []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	if err := yaml.Unmarshal(read(t, "config", "prometheus", "rules_test.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	fires, silent, want := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, r := range alerts(t) {
		want[r.Alert] = true
	}
	for _, c := range file.Tests {
		for _, a := range c.Alerts {
			if len(a.Want) > 0 {
				fires[a.Name] = true
			} else {
				silent[a.Name] = true
			}
		}
	}
	for name, got := range map[string]map[string]bool{"fires": fires, "silent": silent} {
		if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
			t.Errorf("alerts that are tested, %s (-want +got):\n%s", name, diff)
		}
	}
}
