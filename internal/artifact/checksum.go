// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"encoding/hex"
	"path"
	"slices"
	"strings"

	"github.com/pxelab/pxelab/internal/imageformat"
)

// maxSums bounds the size of a checksum file. The largest ones of distributions
// are 1-2 MiB.
const maxSums = 4 << 20

// checksum is a hash algorithm and a lower-case hexadecimal value.
type checksum struct {
	algo string // sha256 or sha512
	hex  string
}

func (c checksum) String() string { return c.algo + ":" + c.hex }

// accepted are the algorithms of checksums, the preferred one first.
var accepted = []string{"sha256", "sha512"}

var hexLength = map[string]int{"sha256": 64, "sha512": 128}

// parseChecksum parses "sha256:<hex>" and "sha512:<hex>", in upper or lower case.
func parseChecksum(s string) (checksum, error) {
	algo, value, _ := strings.Cut(s, ":")
	algo = strings.ToLower(algo)
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
	return err == nil && s != ""
}

// refusedChecksum returns why a text that is neither an accepted checksum nor a URL is not
// the path of a checksum file either: it is a checksum without an algorithm, or with one
// that is not accepted. Empty if it may be a path.
func refusedChecksum(s string) string {
	algo, value, found := strings.Cut(s, ":")
	switch {
	case found && isHex(value) && len(value) >= 16:
		return "uses the algorithm " + algo + ", which is not accepted"
	case isHex(s) && len(s) >= 32:
		return "has no algorithm"
	default:
		return ""
	}
}

// lookup returns the checksum of the first of names that is listed. The last of
// names is a bare file name and also matches entries in folders, provided that
// all such entries agree. A file with a single checksum needs no name, or may have
// another: publishers copy such files with their images, and rename only the images.
// where identifies the checksum file in messages, which contain none of its text.
func (f *sumFile) lookup(names []string, where string) (checksum, error) {
	bare := names[len(names)-1]
	for _, name := range names {
		if sum, ok, err := f.find(where, func(e string) bool { return e != "" && path.Clean(e) == name }); ok || err != nil {
			return sum, err
		}
	}
	if sum, ok, err := f.find(where, func(e string) bool { return e != "" && path.Base(e) == bare }); ok || err != nil {
		return sum, err
	}
	if f.sole() {
		sum, _, err := f.find(where, func(string) bool { return true })
		return sum, err
	}
	if len(f.entries) == 0 {
		return checksum{}, failf(ReasonNoChecksumEntry, nil,
			"%s contains no SHA-256 or SHA-512 checksum%s; "+
				"set checksum to the location of a SHA256SUMS or SHA512SUMS file, or to the checksum itself", where, f.weaker())
	}
	return checksum{}, failf(ReasonNoChecksumEntry, nil,
		"%s lists %d files but not %s; correct the file name or set the checksum itself", where, len(f.names()), bare)
}

// find returns the checksum of the matching entries, SHA-256 if there is
// one. Entries with the same algorithm must agree.
func (f *sumFile) find(where string, match func(string) bool) (checksum, bool, error) {
	found := map[string]checksum{}
	for _, e := range f.entries {
		if !match(e.name) {
			continue
		}
		if old, ok := found[e.sum.algo]; ok && old != e.sum {
			return checksum{}, false, failf(ReasonNoChecksumEntry, nil,
				"%s lists the file several times with different checksums; set the checksum itself", where)
		}
		found[e.sum.algo] = e.sum
	}
	for _, algo := range accepted {
		if sum, ok := found[algo]; ok {
			return sum, true, nil
		}
	}
	return checksum{}, false, nil
}

// names returns the different file names of the entries.
func (f *sumFile) names() []string {
	var all []string
	for _, e := range f.entries {
		all = append(all, path.Clean(e.name))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// sole reports whether the file has the checksums of a single file, with or without its
// name.
func (f *sumFile) sole() bool { return len(f.names()) == 1 }

// weaker lists the algorithms of checksums that are not accepted, for a message.
func (f *sumFile) weaker() string {
	if len(f.weak) == 0 {
		return ""
	}
	slices.Sort(f.weak)
	return ", only of " + strings.Join(slices.Compact(f.weak), ", ")
}

// findChecksum returns the checksum of a file that a checksum file lists under one of names.
func findChecksum(data []byte, names []string, where string) (checksum, error) {
	if len(data) > maxSums {
		return checksum{}, failf(ReasonTooLarge, nil,
			"checksum file %s exceeds %d bytes; set checksum to the location of a SHA256SUMS file", where, maxSums)
	}
	if kind := imageformat.Text(data); kind != "" {
		return checksum{}, failf(ReasonNoChecksumEntry, nil, "%s is %s, not a checksum file; correct the location of the checksum", where, kind)
	}
	if mark := string(data[:min(2, len(data))]); mark == "\xff\xfe" || mark == "\xfe\xff" {
		return checksum{}, failf(ReasonNoChecksumEntry, nil, "%s is UTF-16 text; write the checksum file in ASCII or UTF-8", where)
	}
	return parseSums(data).lookup(names, where)
}
