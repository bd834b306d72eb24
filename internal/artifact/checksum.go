// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"path"
	"strings"
)

// maxSums bounds the size of a checksum file. The largest ones of distributions
// are 1-2 MiB.
const maxSums = 16 << 20

// checksum is a hash algorithm and a lower-case hexadecimal value.
type checksum struct {
	algo string // sha256 or sha512
	hex  string
}

func (c checksum) String() string { return c.algo + ":" + c.hex }

var hexLength = map[string]int{"sha256": 64, "sha512": 128}

func parseChecksum(s string) (checksum, error) {
	algo, value, _ := strings.Cut(s, ":")
	value = strings.ToLower(value)
	want, ok := hexLength[algo]
	if !ok {
		return checksum{}, failf(ReasonInvalid, nil, "checksum %q is neither sha256 nor sha512", s)
	}
	if len(value) != want || !isHex(value) {
		return checksum{}, failf(ReasonInvalid, nil, "checksum %q must have %d hexadecimal digits after %q", s, want, algo+":")
	}
	return checksum{algo, value}, nil
}

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil
}

// sumEntry is a line of a checksum file.
type sumEntry struct {
	name string
	sum  checksum
}

// parseSums parses a checksum file in the formats of coreutils ("hash  name",
// "hash *name", with escapes) and BSD ("SHA256 (name) = hash"). It ignores other
// lines, such as comments, signatures and weaker hashes: distributions mix all
// of these.
func parseSums(data []byte) []sumEntry {
	var entries []sumEntry
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<16)
	for sc.Scan() {
		line := strings.TrimRight(sc.Text(), "\r")
		if e, ok := parseBSDLine(line); ok {
			entries = append(entries, e)
		} else if e, ok := parseCoreutilsLine(line); ok {
			entries = append(entries, e)
		}
	}
	return entries
}

func parseCoreutilsLine(line string) (sumEntry, bool) {
	line, escaped := strings.CutPrefix(line, `\`)
	value, name, ok := strings.Cut(line, " ")
	if !ok || len(name) < 2 || name[0] != ' ' && name[0] != '*' {
		return sumEntry{}, false
	}
	name = name[1:]
	if escaped {
		name = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(name)
	}
	return newEntry(value, name)
}

func parseBSDLine(line string) (sumEntry, bool) {
	line, _ = strings.CutPrefix(line, `\`)
	tag, rest, ok := strings.Cut(line, " (")
	at := strings.LastIndex(rest, ") = ")
	if !ok || at < 1 {
		return sumEntry{}, false
	}
	e, ok := newEntry(strings.TrimSpace(rest[at+len(") = "):]), rest[:at])
	if !ok || strings.ToLower(tag) != e.sum.algo {
		return sumEntry{}, false
	}
	return e, true
}

func newEntry(value, name string) (sumEntry, bool) {
	for algo, n := range hexLength {
		if len(value) == n && isHex(value) {
			return sumEntry{name, checksum{algo, strings.ToLower(value)}}, true
		}
	}
	return sumEntry{}, false
}

// lookup returns the checksum of the first of names that is listed. The last of
// names is a bare file name and also matches entries in folders, provided that
// all such entries agree. where identifies the checksum file in messages.
func lookup(entries []sumEntry, names []string, where string) (checksum, error) {
	for _, name := range names {
		if sum, ok, err := findSum(entries, where, func(e string) bool { return path.Clean(e) == name }); ok || err != nil {
			return sum, err
		}
	}
	bare := names[len(names)-1]
	if sum, ok, err := findSum(entries, where, func(e string) bool { return path.Base(e) == bare }); ok || err != nil {
		return sum, err
	}
	if len(entries) == 0 {
		return checksum{}, failf(ReasonNoChecksumEntry, nil,
			"%s contains no SHA-256 or SHA-512 checksum; "+
				"set checksum to the location of a SHA256SUMS or SHA512SUMS file, or to the checksum itself", where)
	}
	return checksum{}, failf(ReasonNoChecksumEntry, nil,
		"%s lists %d files but not %s; correct the file name or set the checksum itself", where, len(entries), bare)
}

// findSum returns the checksum of the matching entries, SHA-256 if there is
// one. Entries with the same algorithm must agree.
func findSum(entries []sumEntry, where string, match func(string) bool) (checksum, bool, error) {
	found := map[string]checksum{}
	for _, e := range entries {
		if !match(e.name) {
			continue
		}
		if old, ok := found[e.sum.algo]; ok && old != e.sum {
			return checksum{}, false, failf(ReasonNoChecksumEntry, nil,
				"%s lists %s twice with different checksums; set the checksum itself", where, e.name)
		}
		found[e.sum.algo] = e.sum
	}
	for _, algo := range []string{"sha256", "sha512"} {
		if sum, ok := found[algo]; ok {
			return sum, true, nil
		}
	}
	return checksum{}, false, nil
}
