// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// TestSimulatedFaults checks that each fault of the API has a row and a target.
func TestSimulatedFaults(t *testing.T) {
	text, err := os.ReadFile("../../api/v1alpha1/simulation_types.go")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, match := range regexp.MustCompile(`SimulatedFaultType = "(\w+)"`).FindAllStringSubmatch(string(text), -1) {
		want = append(want, match[1])
	}
	for _, c := range simulatedFaults {
		got = append(got, string(c.fault))
		if simulatedTarget(c.target()) == nil || faultOf(c.target()) != c.fault {
			t.Errorf("%s: got no target with this fault for the name %s", c.fault, c.target())
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Errorf("faults (-want as in the API +got):\n%s", diff)
	}
	if o := simulatedTarget(first); o != nil {
		t.Errorf("got the simulated target %v, want none of the name %s", o, first)
	}
}

// TestFaultsOfMakeTest checks which rows TEST_FAULTS in the Makefile selects: each of its
// alternatives some, and none that waits for minutes.
func TestFaultsOfMakeTest(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)^TEST_FAULTS := (.*)$`).FindSubmatch(makefile)
	if match == nil {
		t.Fatal("got no TEST_FAULTS in the Makefile")
	}
	names := []string{"afterwards"}
	for _, f := range faults {
		names = append(names, f.name+" in "+f.phase)
	}
	for pattern := range strings.SplitSeq(string(match[1]), "|") {
		if !slices.ContainsFunc(names, regexp.MustCompile(pattern).MatchString) {
			t.Errorf("%q selects none of the faults %q", pattern, names)
		}
	}
	selected := regexp.MustCompile(string(match[1])).MatchString
	for _, c := range simulatedFaults {
		long := c.fault == v1alpha1.SimulatedFaultNoPhoneHome || c.fault == v1alpha1.SimulatedFaultNoSSH
		if got := selected("simulated " + string(c.fault) + " in " + string(c.where)); got == long {
			t.Errorf("fault %s: got selected %t, want %t", c.fault, got, !long)
		}
	}
}
