// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type (
	respWriter = http.ResponseWriter
	req        = http.Request
)

var (
	sumA = strings.Repeat("a1", 32)
	sumB = strings.Repeat("b2", 32)
	sum5 = strings.Repeat("c3", 64)
	// signedSums is a checksum file as Fedora publishes it.
	signedSums = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" +
		"# a.img: 1234 bytes\nSHA256 (a.img) = " + sumA +
		"\n-----BEGIN PGP SIGNATURE-----\n\niQ==\n-----END PGP SIGNATURE-----\n"
)

var cmpSums = cmp.AllowUnexported(sumEntry{}, checksum{})

func TestParseSums(t *testing.T) {
	a, b := checksum{"sha256", sumA}, checksum{"sha256", sumB}
	tests := map[string]struct {
		in   string
		want []sumEntry
	}{
		"empty":        {"", nil},
		"text":         {sumA + "  a.img\n", []sumEntry{{"a.img", a}}},
		"binary":       {sumA + " *a.img\n", []sumEntry{{"a.img", a}}},
		"no newline":   {sumA + " *a.img", []sumEntry{{"a.img", a}}},
		"DOS newline":  {sumA + " *a.img\r\n", []sumEntry{{"a.img", a}}},
		"upper case":   {strings.ToUpper(sumA) + "  a.img\n", []sumEntry{{"a.img", a}}},
		"two":          {sumA + "  a\n" + sumB + "  b\n", []sumEntry{{"a", a}, {"b", b}}},
		"spaces":       {sumA + "  a b\n", []sumEntry{{"a b", a}}},
		"folder":       {sumA + "  ./x/a\n", []sumEntry{{"./x/a", a}}},
		"escaped":      {`\` + sumA + `  a\\b\nc` + "\n", []sumEntry{{"a\\b\nc", a}}},
		"SHA-512":      {sum5 + "  a\n", []sumEntry{{"a", checksum{"sha512", sum5}}}},
		"BSD":          {"SHA256 (a (1).img) = " + sumA + "\n", []sumEntry{{"a (1).img", a}}},
		"BSD SHA-512":  {"SHA512 (a) = " + sum5 + "\n", []sumEntry{{"a", checksum{"sha512", sum5}}}},
		"BSD mismatch": {"SHA512 (a) = " + sumA + "\n", nil},
		"MD5":          {"d41d8cd98f00b204e9800998ecf8427e  a\n", nil},
		"signed":       {signedSums, []sumEntry{{"a.img", a}}},
		"one space":    {sumA + " a\n", nil},
		"no name":      {sumA + "  \n" + sumA + "\n", nil},
		"HTML":         {"<html><body>404</body></html>", nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, parseSums([]byte(tc.in)), cmpSums); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	sums := func(lines ...string) []sumEntry { return parseSums([]byte(strings.Join(lines, "\n"))) }
	tests := map[string]struct {
		entries []sumEntry
		src     Source
		want    string // checksum or part of the error
	}{
		"bare":          {sums(sumA + "  a"), Source{URL: "http://h/x/a", Checksum: "http://h/x/S"}, "sha256:" + sumA},
		"dot":           {sums(sumA + "  ./a"), Source{URL: "http://h/x/a", Checksum: "http://h/x/S"}, "sha256:" + sumA},
		"relative":      {sums(sumB+"  y/a", sumA+"  z/a"), Source{URL: "http://h/x/z/a", Checksum: "http://h/x/S"}, "sha256:" + sumA},
		"in a folder":   {sums(sumA + "  y/a"), Source{URL: "http://m/a", Checksum: "http://h/x/S"}, "sha256:" + sumA},
		"ambiguous":     {sums(sumB+"  y/a", sumA+"  z/a"), Source{URL: "http://m/a", Checksum: "http://h/x/S"}, "twice"},
		"same twice":    {sums(sumA+"  y/a", sumA+"  z/a"), Source{URL: "http://m/a", Checksum: "http://h/x/S"}, "sha256:" + sumA},
		"both kinds":    {sums(sum5+"  a", sumA+"  a"), Source{URL: "http://h/a", Checksum: "http://h/S"}, "sha256:" + sumA},
		"only SHA-512":  {sums(sum5 + "  a"), Source{URL: "http://h/a", Checksum: "http://h/S"}, "sha512:" + sum5},
		"escaped URL":   {sums(sumA + "  a b"), Source{URL: "http://h/a%20b", Checksum: "http://h/S"}, "sha256:" + sumA},
		"query":         {sums(sumA + "  a"), Source{URL: "http://h/a?b=c", Checksum: "http://h/S"}, "sha256:" + sumA},
		"prefix only":   {sums(sumA + "  a.sig"), Source{URL: "http://h/a", Checksum: "http://h/S"}, "lists 1 files but not a"},
		"no checksums":  {nil, Source{URL: "http://h/a", Checksum: "http://h/S"}, "no SHA-256 or SHA-512"},
		"path":          {sums(sumA + "  a"), Source{Path: "d/a", Checksum: "d/S"}, "sha256:" + sumA},
		"path below":    {sums(sumB+"  a", sumA+"  e/a"), Source{Path: "d/e/a", Checksum: "d/S"}, "sha256:" + sumA},
		"path from top": {sums(sumB+"  a", sumA+"  e/a"), Source{Path: "e/a", Checksum: "S"}, "sha256:" + sumA},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := tc.src.check()
			if err != nil {
				t.Fatal(err)
			}
			sum, err := lookup(tc.entries, c.entryNames(), "SUMS")
			if err != nil {
				wantReason(t, err, ReasonNoChecksumEntry, tc.want)
				return
			}
			if sum.String() != tc.want {
				t.Errorf("got %s, want %s", sum, tc.want)
			}
		})
	}
}

func FuzzParseSums(f *testing.F) {
	for _, s := range []string{
		"", sumA + "  a\n", sumA + " *a b\r\n", `\` + sumA + `  a\nb`,
		"SHA256 (a) = " + sumA, "SHA512 ((a)) = " + sum5, signedSums, ") = ", " () = ", `\ `,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, e := range parseSums(data) {
			if e.name == "" {
				t.Fatalf("got entry %+v without a name, want one", e)
			}
			if want := hexLength[e.sum.algo]; len(e.sum.hex) != want {
				t.Fatalf("got checksum %q of %d digits, want %d", e.sum.hex, len(e.sum.hex), want)
			}
			if !isHex(e.sum.hex) || e.sum.hex != strings.ToLower(e.sum.hex) {
				t.Fatalf("got checksum %q, want lower-case hexadecimal digits", e.sum.hex)
			}
			if !bytes.Contains(bytes.ToLower(data), []byte(e.sum.hex)) {
				t.Fatalf("got checksum %s, want one of the input", e.sum.hex)
			}
		}
	})
}
