// SPDX-License-Identifier: Apache-2.0

package process

import "testing"

func TestParseStat(t *testing.T) {
	fields := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	for name, tc := range map[string]struct {
		line  string
		start uint64
		bad   bool
	}{
		"plain":                 {line: "7 (sleep)" + fields, start: 4242},
		"spaces, parentheses":   {line: "7 (a) S 1 (b c) )" + fields, start: 4242},
		"empty":                 {line: "", bad: true},
		"truncated":             {line: "7 (sleep) S 1 2", bad: true},
		"start is not a number": {line: "7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			start, state, err := parseStat([]byte(tc.line))
			if (err != nil) != tc.bad {
				t.Fatalf("got error %v, want an error: %t", err, tc.bad)
			}
			if !tc.bad && (start != tc.start || state != 'S') {
				t.Errorf("got start %d and state %c, want %d and S", start, state, tc.start)
			}
		})
	}
}
