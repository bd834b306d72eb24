// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// A mapping's keys are compared with each other, which must not take quadratic time
// or report every pair.
func TestCheckUserDataLimitsKeys(t *testing.T) {
	var many strings.Builder
	for i := range maxKeys + 1 {
		fmt.Fprintf(&many, "  a%d:\n", i)
	}
	for name, c := range map[string]struct{ text, want string }{
		"many":        {"#cloud-config\na:\n" + many.String(), "user-data, line 3: a mapping has 2001 keys, more than the limit of 2000"},
		"many, equal": {"#cloud-config\n" + strings.Repeat("a:\n", 100_000), "more than the limit of 2000"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := CheckUserData(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %.200v, want %q", err, c.want)
			}
		})
	}
}

func TestRenderUserDataChoosesBoundary(t *testing.T) {
	for _, comment := range []string{"", "# pxelab-partx", "# pxelab-part" + strings.Repeat("-", 100), "# pxelab-part" + strings.Repeat("-", 200_000) + "x"} {
		out, err := RenderUserData(t.Context(), "#cloud-config\nusers: [default]\n"+comment+"\n", values())
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`^Content-Type: multipart/mixed; boundary="([^"]{1,70})"`).FindStringSubmatch(out)
		if m == nil || strings.Count(out, m[1]) != 4 {
			t.Errorf("comment %.40q: got %.120q, want a boundary that occurs in the header and three times in the message", comment, out)
		}
	}
}
