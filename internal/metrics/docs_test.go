// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// table returns the rows of docs/metrics.md that describe these metrics.
func table() string {
	var out strings.Builder
	for _, f := range Families() {
		var labels []string
		for _, l := range f.Labels {
			labels = append(labels, "`"+l+"`")
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", f.Name, f.Type, strings.Join(labels, ", "), f.Help)
	}
	return out.String()
}

// Every metric is documented, and every documented metric exists.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rows strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `pxelab_") {
			rows.WriteString(line)
		}
	}
	if diff := cmp.Diff(table(), rows.String()); diff != "" {
		t.Errorf("the rows of docs/metrics.md (-want +got):\n%s\nreplace them by\n\n%s", diff, table())
	}
}
