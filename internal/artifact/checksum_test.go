// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	c := checksum{"sha512", sum5}
	named := []sumEntry{{"a.img", a}}
	tests := map[string]struct {
		in   string
		want []sumEntry
	}{
		"empty":                {"", nil},
		"text":                 {sumA + "  a.img\n", named},
		"binary":               {sumA + " *a.img\n", named},
		"no newline":           {sumA + " *a.img", named},
		"DOS newline":          {sumA + " *a.img\r\n", named},
		"upper case":           {strings.ToUpper(sumA) + "  a.img\n", named},
		"two":                  {sumA + "  a\n" + sumB + "  b\n", []sumEntry{{"a", a}, {"b", b}}},
		"spaces":               {sumA + "  a b\n", []sumEntry{{"a b", a}}},
		"folder":               {sumA + "  ./x/a\n", []sumEntry{{"./x/a", a}}},
		"escaped":              {`\` + sumA + `  a\\b\nc` + "\n", []sumEntry{{"a\\b\nc", a}}},
		"escaped BSD":          {`\SHA256 (a\nb) = ` + sumA + "\n", []sumEntry{{"a\nb", a}}},
		"SHA-512":              {sum5 + "  a\n", []sumEntry{{"a", c}}},
		"one space":            {sumA + " a.img\n", named},
		"one space, one char":  {sumA + " a\n", []sumEntry{{"a", a}}},
		"tab":                  {sumA + "\ta.img\n", named},
		"leading blank":        {" " + sumA + "  a.img\n", named},
		"leading tab":          {"\t" + sumA + " *a.img\n", named},
		"byte order mark":      {"\xef\xbb\xbf" + sumA + "  a.img\n", named},
		"bare":                 {sumA + "\n", []sumEntry{{"", a}}},
		"bare, DOS":            {sumA + "\r\n", []sumEntry{{"", a}}},
		"bare, blanks":         {sumA + "  \n", []sumEntry{{"", a}}},
		"BSD":                  {"SHA256 (a (1).img) = " + sumA + "\n", []sumEntry{{"a (1).img", a}}},
		"BSD SHA-512":          {"SHA512 (a) = " + sum5 + "\n", []sumEntry{{"a", c}}},
		"BSD mismatch":         {"SHA512 (a) = " + sumA + "\n", nil},
		"BSD of another hash":  {"SHA3-256 (a) = " + sumA + "\n", nil},
		"OpenSSL":              {"SHA256(a.img)= " + sumA + "\n", named},
		"OpenSSL 3":            {"SHA2-256(a.img)= " + sumA + "\nSHA2-512(a.img)= " + sum5, []sumEntry{{"a.img", a}, {"a.img", c}}},
		"upper case BSD":       {"SHA256 (a.img) = " + strings.ToUpper(sumA) + "\r\n", named},
		"parentheses in GNU":   {sumA + "  (a) = b\n", []sumEntry{{"(a) = b", a}}},
		"MD5":                  {"d41d8cd98f00b204e9800998ecf8427e  a\n", nil},
		"signed":               {signedSums, named},
		"signed, dash":         {strings.Replace(signedSums, "SHA256 (", "- SHA256 (", 1), named},
		"signed, DOS":          {strings.ReplaceAll(signedSums, "\n", "\r\n"), named},
		"outside of signature": {sumB + "  a.img\n" + signedSums + sumB + "  a.img\n", named},
		"Gentoo": {
			"# BLAKE2B HASH\n" + strings.Repeat("d4", 64) + "  a\n# SHA512 HASH\n" + sum5 + "  a\n# MD5 HASH\nd41d8cd98f00b204e9800998ecf8427e  a\n",
			[]sumEntry{{"a", c}},
		},
		"comment with a heading's form": {"# SECRET HASH\n" + sumA + "  a.img\n", named},
		"long line":                     {strings.Repeat("x", 1<<20) + "\n" + sumA + "  a.img\n", named},
		"HTML":                          {"<html><body>404</body></html>", nil},
		"not hexadecimal":               {strings.Repeat("g", 64) + "  a\n", nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, parseSums([]byte(tc.in)).entries, cmpSums); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

// sha256sum -c accepts the same lines, except those without a name.
func TestParseSumsAgreesWithSha256sum(t *testing.T) {
	program, err := exec.LookPath("sha256sum")
	if err != nil {
		return // not a Linux system
	}
	dir := t.TempDir()
	content := []byte("content")
	if err := os.WriteFile(filepath.Join(dir, "image.qcow2"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	_, sum, _ := strings.Cut(sha256Of(content), ":")
	for _, line := range []string{
		sum + "  image.qcow2", sum + " *image.qcow2", sum + " image.qcow2", sum + "\timage.qcow2", " " + sum + "  image.qcow2",
		sum + "  ./image.qcow2", strings.ToUpper(sum) + "  image.qcow2", "SHA256 (image.qcow2) = " + sum, "SHA256(image.qcow2)= " + sum,
		`\` + sum + "  image.qcow2", `\SHA256 (image.qcow2) = ` + sum, "SHA256 (image.qcow2)=" + sum,
	} {
		cmd := exec.CommandContext(t.Context(), program, "--check", "--strict", "--status")
		cmd.Dir = dir
		cmd.Stdin = strings.NewReader(line + "\n")
		if err := cmd.Run(); err != nil {
			t.Errorf("sha256sum does not accept %q: %v", line, err)
		}
		got, err := findChecksum([]byte(line+"\n"), []string{"image.qcow2"}, "SUMS")
		if err != nil || got.hex != sum {
			t.Errorf("%q: got %v, error %v, want %s", line, got, err, sum)
		}
	}
}

func TestLookup(t *testing.T) {
	sums := func(lines ...string) string { return strings.Join(lines, "\n") }
	tests := map[string]struct {
		text string
		src  Source
		want string // checksum or part of the error
	}{
		"bare":          {sums(sumA + "  a"), Source{URL: "http://h/x/a", Checksum: "http://h/x/S"}, "sha256:" + sumA},
		"dot":           {sums(sumA + "  ./a"), Source{URL: "http://h/x/a", Checksum: "http://h/x/S"}, "sha256:" + sumA},
		"relative":      {sums(sumB+"  y/a", sumA+"  z/a"), Source{URL: "http://h/x/z/a", Checksum: "http://h/x/S"}, "sha256:" + sumA},
		"in a folder":   {sums(sumA + "  y/a"), Source{URL: "http://m/a", Checksum: "http://h/x/S"}, "sha256:" + sumA},
		"ambiguous":     {sums(sumB+"  y/a", sumA+"  z/a"), Source{URL: "http://m/a", Checksum: "http://h/x/S"}, "different checksums"},
		"same twice":    {sums(sumA+"  y/a", sumA+"  z/a"), Source{URL: "http://m/a", Checksum: "http://h/x/S"}, "sha256:" + sumA},
		"both kinds":    {sums(sum5+"  a", sumA+"  a"), Source{URL: "http://h/a", Checksum: "http://h/S"}, "sha256:" + sumA},
		"only SHA-512":  {sums(sum5 + "  a"), Source{URL: "http://h/a", Checksum: "http://h/S"}, "sha512:" + sum5},
		"escaped URL":   {sums(sumA + "  a b"), Source{URL: "http://h/a%20b", Checksum: "http://h/S"}, "sha256:" + sumA},
		"query":         {sums(sumA + "  a"), Source{URL: "http://h/a?b=c", Checksum: "http://h/S"}, "sha256:" + sumA},
		"prefix only":   {sums(sumA+"  a.sig", sumB+"  b"), Source{URL: "http://h/a", Checksum: "http://h/S"}, "lists 2 files but not a"},
		"bare hash":     {sums(sumA), Source{URL: "http://h/a", Checksum: "http://h/a.sha256"}, "sha256:" + sumA},
		"bare hashes":   {sums(sumA, sum5), Source{URL: "http://h/a", Checksum: "http://h/a.sums"}, "sha256:" + sumA},
		"two bare":      {sums(sumA, sumB), Source{URL: "http://h/a", Checksum: "http://h/a.sums"}, "different checksums"},
		"bare and name": {sums(sumB, sumA+"  a"), Source{URL: "http://h/a", Checksum: "http://h/S"}, "sha256:" + sumA},
		"other name":    {sums(sumA + "  build-2024.1.qcow2"), Source{URL: "http://h/a", Checksum: "http://h/a.sha256"}, "sha256:" + sumA},
		"its kinds":     {sums(sum5+"  b", sumA+"  ./b"), Source{URL: "http://h/a", Checksum: "http://h/a.sums"}, "sha256:" + sumA},
		"several":       {sums(sumA+"  a", sumA+"  a"), Source{URL: "http://h/a", Checksum: "http://h/S"}, "sha256:" + sumA},
		"contradiction": {sums(sumA+"  a", sumB+"  a"), Source{URL: "http://h/a", Checksum: "http://h/S"}, "different checksums"},
		"weak only": {
			sums("d41d8cd98f00b204e9800998ecf8427e  a", "SHA1 (a) = da39a3ee5e6b4b0d3255bfef95601890afd80709"),
			Source{URL: "http://h/a", Checksum: "http://h/S"}, "no SHA-256 or SHA-512 checksum, only of MD5, SHA1",
		},
		"page":          {"<!DOCTYPE html>\n" + sumA + "  a", Source{URL: "http://h/a", Checksum: "http://h/S"}, "is an HTML page"},
		"UTF-16":        {"\xff\xfea\x00", Source{URL: "http://h/a", Checksum: "http://h/S"}, "UTF-16"},
		"no checksums":  {"", Source{URL: "http://h/a", Checksum: "http://h/S"}, "no SHA-256 or SHA-512"},
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
			sum, err := findChecksum([]byte(tc.text), c.entryNames(), "SUMS")
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

func TestFindChecksumIsBounded(t *testing.T) {
	_, err := findChecksum(bytes.Repeat([]byte("#"), maxSums+1), []string{"a"}, "SUMS")
	wantReason(t, err, ReasonTooLarge, "SUMS")
}

func FuzzParseSums(f *testing.F) {
	for _, s := range []string{
		"", sumA, sumA + "  a\n", sumA + " *a b\r\n", `\` + sumA + `  a\nb`, sumA + "\ta", "\xef\xbb\xbf" + sumA + " a",
		"# BLAKE2B HASH\n" + sum5 + "  a",
		"SHA256 (a) = " + sumA, "SHA2-512((a))= " + sum5, signedSums, ") = ", " () = ", `\ `,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sums := parseSums(data)
		for _, e := range sums.entries {
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
		for _, algo := range sums.weak {
			if !slices.Contains(weakTags, algo) && !slices.Contains(slices.Collect(maps.Values(algorithmOf)), algo) {
				t.Fatalf("got algorithm %q, want a known one: it is shown in messages", algo)
			}
		}
		_, err := findChecksum(data, []string{"b/a", "a"}, "SUMS")
		var typed *Error
		if err != nil && !errors.As(err, &typed) {
			t.Fatalf("got %v, want an *Error", err)
		}
	})
}
