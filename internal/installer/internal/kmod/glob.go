// SPDX-License-Identifier: Apache-2.0

package kmod

// matchGlob is fnmatch without flags, as depmod's aliases require: '*', '?',
// '[set]', '\' to quote. In path.Match, '*' does not match a slash.
func matchGlob(pattern, s string) bool {
	// star and mark are where to resume with the last '*' one byte longer.
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) || p < len(pattern) {
		if p < len(pattern) {
			if pattern[p] == '*' {
				star, mark = p, i
				p++
				continue
			}
			if i < len(s) {
				if n, ok := matchOne(pattern[p:], s[i]); ok {
					p += n
					i++
					continue
				}
			}
		}
		if star < 0 || mark >= len(s) {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	return true
}

// matchOne matches c against the pattern's first element, which has n bytes.
func matchOne(pattern string, c byte) (n int, ok bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
	case '[':
		if n, ok, valid := matchSet(pattern, c); valid {
			return n, ok
		}
	}
	return 1, pattern[0] == c
}

// matchSet matches c against "[abc]", "[a-z]" or "[!a]"; valid is false if the
// set is not terminated.
func matchSet(pattern string, c byte) (n int, ok, valid bool) {
	i := 1
	negate := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if negate {
		i++
	}
	for first := true; i < len(pattern); first = false {
		if pattern[i] == ']' && !first {
			return i + 1, ok != negate, true
		}
		lo, hi := pattern[i], pattern[i]
		if i+2 < len(pattern) && pattern[i+1] == '-' && pattern[i+2] != ']' {
			hi = pattern[i+2]
			i += 2
		}
		i++
		if lo <= c && c <= hi {
			ok = true
		}
	}
	return 0, false, false
}
