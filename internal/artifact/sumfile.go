// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"regexp"
	"slices"
	"strings"
)

// sumEntry is a line of a checksum file.
type sumEntry struct {
	name string // empty for a checksum without a file name
	sum  checksum
}

// sumFile is the content of a checksum file.
type sumFile struct {
	entries []sumEntry
	// weak has the algorithms of lines that are not accepted.
	weak []string
}

const (
	byteOrderMark = "\xef\xbb\xbf"
	signedBegin   = "-----BEGIN PGP SIGNED MESSAGE-----"
	signedEnd     = "-----BEGIN PGP SIGNATURE-----"
)

// tags maps the algorithm tags of BSD and OpenSSL, in upper case, to algorithms.
var tags = map[string]string{
	"SHA256": "sha256", "SHA-256": "sha256", "SHA2-256": "sha256",
	"SHA512": "sha512", "SHA-512": "sha512", "SHA2-512": "sha512",
}

// weakTags are the tags of algorithms that are not accepted. Messages contain only these and
// no other text of a checksum file.
var weakTags = []string{
	"MD5", "SHA1", "SHA-1", "SHA224", "SHA384", "SHA2-384", "SHA512-256", "SHA512/256", "SHA3-256", "SHA3-512",
	"RMD160", "WHIRLPOOL", "SM3", "BLAKE2B", "BLAKE2S", "BLAKE3",
}

// algorithmOf names the algorithms by the number of their hexadecimal digits.
var algorithmOf = map[int]string{32: "MD5", 40: "SHA-1", 56: "SHA-224", 64: "sha256", 96: "SHA-384", 128: "sha512"}

// parseSums parses a checksum file in the forms that sha256sum -c reads and distributions
// publish:
//
//	hash  name        coreutils; also "hash *name", "hash name" and a tab
//	\hash  na\nme     coreutils, with escapes in the name
//	SHA256 (name) = hash    BSD; OpenSSL has "SHA2-256(name)= hash"
//	hash              alone, as Alpine's .sha256 files
//	# SHA512 HASH     Gentoo: the algorithm of the lines that follow
//
// It ignores other lines, such as comments and weaker hashes, and in a file with a
// cleartext signature (RFC 9580, section 7) everything outside the signed text. The
// signature is not verified.
func parseSums(data []byte) *sumFile {
	text := strings.TrimPrefix(string(data), byteOrderMark)
	f := &sumFile{}
	heading := ""
	for line := range strings.Lines(signedText(text)) {
		line = strings.TrimRight(line, "\r\n")
		if algo, ok := headingOf(line); ok {
			heading = algo
			continue
		}
		line = strings.TrimLeft(line, " \t")
		e, algo := parseTagged(line)
		if algo == "" {
			e, algo = parseUntagged(line, heading)
		}
		switch {
		case e.sum.algo != "":
			f.entries = append(f.entries, e)
		case algo != "":
			f.weak = append(f.weak, algo)
		}
	}
	return f
}

// signedText returns the text that a cleartext signature covers, or the whole text if it is
// not signed in this way.
func signedText(text string) string {
	var signed strings.Builder
	const before, header, body = 0, 1, 2
	state := before
	for line := range strings.Lines(text) {
		bare := strings.TrimRight(line, " \t\r\n")
		switch {
		case bare == signedBegin:
			state = header
		case state == header && bare == "":
			state = body
		case state == body && bare == signedEnd:
			state = before
		case state == body:
			signed.WriteString(strings.TrimPrefix(line, "- ")) // section 7.2
		}
	}
	if signed.Len() == 0 {
		return text
	}
	return signed.String()
}

// headings matches the headings of Gentoo's and Flatcar's DIGESTS files.
var headings = regexp.MustCompile(`(?i)^#\s*([0-9a-z-]+)\s+HASH\s*$`)

func headingOf(line string) (algo string, ok bool) {
	m := headings.FindStringSubmatch(line)
	if m == nil {
		return "", false
	}
	algo = strings.ToUpper(m[1])
	return algo, tags[algo] != "" || slices.Contains(weakTags, algo)
}

// parseTagged parses a line of BSD or OpenSSL. algo is empty if it is not one of a known
// algorithm, and the entry is empty if the algorithm is not accepted.
func parseTagged(line string) (e sumEntry, algo string) {
	line, escaped := strings.CutPrefix(line, `\`)
	tag, rest, ok := strings.Cut(line, "(")
	tag = strings.ToUpper(strings.TrimSpace(tag))
	at := strings.LastIndexByte(rest, ')')
	if !ok || tag == "" || strings.ContainsAny(tag, " \t") || at < 1 {
		return sumEntry{}, ""
	}
	value, ok := strings.CutPrefix(strings.TrimLeft(rest[at+1:], " \t"), "=")
	value = strings.ToLower(strings.TrimSpace(value))
	if !ok || !isHex(value) {
		return sumEntry{}, ""
	}
	algo = tags[tag]
	switch {
	case slices.Contains(weakTags, tag):
		return sumEntry{}, tag
	case algo == "" || len(value) != hexLength[algo]:
		return sumEntry{}, ""
	}
	return sumEntry{unescape(rest[:at], escaped), checksum{algo, value}}, algo
}

// parseUntagged parses a line of coreutils, or a checksum alone. heading is the algorithm of
// the last heading; without one the number of digits determines it.
func parseUntagged(line, heading string) (e sumEntry, algo string) {
	line, escaped := strings.CutPrefix(line, `\`)
	end := strings.IndexAny(line, " \t")
	if end < 0 {
		end = len(line)
	}
	value := strings.ToLower(line[:end])
	algo = algorithmOf[len(value)]
	if algo == "" || !isHex(value) {
		return sumEntry{}, ""
	}
	if heading != "" && tags[heading] != algo {
		return sumEntry{}, heading
	}
	if hexLength[algo] == 0 {
		return sumEntry{}, algo
	}
	// A blank, and a second one or the marker of binary mode, which md5sum and others omit.
	name := line[end:]
	if len(name) > 2 && name[:2] == " *" {
		name = name[2:]
	}
	name = strings.TrimLeft(name, " \t")
	return sumEntry{unescape(name, escaped), checksum{algo, value}}, algo
}

// unescape undoes the escapes of coreutils in a file name.
func unescape(name string, escaped bool) string {
	if !escaped {
		return name
	}
	return strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(name)
}
