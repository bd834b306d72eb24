// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"fmt"
	"strings"
)

// scanner finds the tokens of a YAML text as PyYAML does, as far as it differs from the
// parser of this package: PyYAML takes no tab between tokens, and an escape "\/". It
// follows PyYAML's scanner.py. For a text that is invalid for another reason the result
// does not matter, because the parser refuses it.
type scanner struct {
	text string
	at   int
	// lineStart is the offset of the current line, line its number from 1.
	lineStart, line int
	// flow is the depth of [ and {.
	flow int
	// indent is the column of the innermost block collection, -1 for none.
	indent int
	// slashes are the offsets of the backslashes of "\/".
	slashes []int
	// refused is the first place that PyYAML refuses, nil for none.
	refused *scanError
}

// scanError is what PyYAML refuses.
type scanError struct {
	line    int
	message string
}

const (
	tabMessage = "has a tab where cloud-init's YAML parser takes only spaces; replace it by spaces, or quote the text that contains it"
	escMessage = `has the escape \%[1]c in a double-quoted text, which cloud-init's YAML parser does not know; write \\%[1]c`
	// escapes are those of PyYAML, besides a line break.
	escapes = "0abt\tnvfre \"\\/N_LPxuU"
)

// scanYAML returns the offsets of the backslashes of "\/", and the first place that PyYAML
// refuses, nil for none.
func scanYAML(text string) (slashes []int, refused *scanError) {
	s := &scanner{text: text, line: 1, indent: -1}
	for s.at < len(s.text) {
		s.token()
	}
	return s.slashes, s.refused
}

func (s *scanner) refuse(message string) {
	if s.refused == nil {
		s.refused = &scanError{s.line, message}
	}
}

// peek returns the byte at an offset from the current place, 0 beyond the end.
func (s *scanner) peek(offset int) byte {
	if s.at+offset >= len(s.text) {
		return 0
	}
	return s.text[s.at+offset]
}

func (s *scanner) column() int { return s.at - s.lineStart }

// next moves behind the current byte.
func (s *scanner) next() {
	if s.peek(0) == '\n' {
		s.line++
		s.lineStart = s.at + 1
	}
	s.at++
}

// blankAt reports whether a token ends before the byte at an offset.
func (s *scanner) blankAt(offset int) bool {
	return strings.IndexByte(" \t\r\n\x00", s.peek(offset)) >= 0
}

func (s *scanner) restOfLine() {
	for s.at < len(s.text) && s.peek(0) != '\n' {
		s.at++
	}
}

// token moves behind the next token, or behind the space before it.
func (s *scanner) token() {
	switch c := s.peek(0); {
	case c == '\t':
		s.refuse(tabMessage)
		s.at++
	case c == ' ' || c == '\n' || c == '\r':
		s.next()
	case c == '#', c == '%' && s.column() == 0:
		s.restOfLine()
	case c == '[' || c == '{':
		s.flow++
		s.at++
	case c == ']' || c == '}':
		s.flow = max(0, s.flow-1)
		s.at++
	case c == ',' && s.flow > 0:
		s.at++
	case c == '\'' || c == '"':
		s.quoted(c)
	case (c == '|' || c == '>') && s.flow == 0:
		s.block()
	case c == '&' || c == '*' || c == '!':
		for !s.blankAt(0) && (s.flow == 0 || strings.IndexByte(",[]{}", s.peek(0)) < 0) {
			s.at++
		}
	case strings.IndexByte("-?:", c) >= 0 && s.blankAt(1):
		if s.flow == 0 && c != ':' {
			s.indent = s.column()
		}
		s.at++
	case c == ':' && s.flow > 0 && strings.IndexByte(",[]{}\"'", s.peek(1)) >= 0:
		s.at++
	case s.marker():
		s.at += 3
		s.indent = -1
	default:
		s.plain()
	}
}

// marker reports whether the current place is a document marker.
func (s *scanner) marker() bool {
	rest := s.text[s.at:]
	return s.column() == 0 && (strings.HasPrefix(rest, "---") || strings.HasPrefix(rest, "...")) && s.blankAt(3)
}

// key records the indentation of a block mapping if the token that ended is its key.
func (s *scanner) key(column int) {
	for i := 0; ; i++ {
		switch s.peek(i) {
		case ' ':
			continue
		case ':':
			if s.flow == 0 && s.blankAt(i+1) {
				s.indent = column
			}
		}
		return
	}
}

func (s *scanner) quoted(quote byte) {
	column := s.column()
	s.at++
	for s.at < len(s.text) {
		switch c := s.peek(0); {
		case c == quote && quote == '\'' && s.peek(1) == '\'':
			s.at += 2
		case c == quote:
			s.at++
			s.key(column)
			return
		case c == '\\' && quote == '"':
			e := s.peek(1)
			switch {
			case e == '/':
				s.slashes = append(s.slashes, s.at)
			case e != '\n' && e != '\r' && strings.IndexByte(escapes, e) < 0:
				s.refuse(fmt.Sprintf(escMessage, e))
			}
			s.at++
			s.next()
		default:
			s.next()
		}
	}
}

// plain moves behind a plain scalar, which may have several lines.
func (s *scanner) plain() {
	column := s.column()
	for s.at < len(s.text) {
		c := s.peek(0)
		switch {
		case c == ':' && (s.blankAt(1) || s.flow > 0 && strings.IndexByte(",[]{}", s.peek(1)) >= 0),
			s.flow > 0 && strings.IndexByte(",[]{}", c) >= 0, c == '\t':
			s.key(column)
			return
		case c == ' ' || c == '\r' || c == '\n':
			if !s.continues() {
				s.key(column)
				return
			}
		default:
			s.at++
		}
	}
}

// continues moves behind the space in a plain scalar and reports whether the scalar
// continues there; if not, it stays.
func (s *scanner) continues() bool {
	before, broken := *s, false
	for s.peek(0) == ' ' || s.peek(0) == '\n' || s.peek(0) == '\r' {
		broken = broken || s.peek(0) == '\n'
		s.next()
	}
	if s.at < len(s.text) && s.peek(0) != '#' && s.peek(0) != '\t' && !s.marker() && (!broken || s.flow > 0 || s.column() > s.indent) {
		return true
	}
	*s = before
	return false
}

// block moves behind a literal or folded scalar: all lines that are indented deeper than
// the collection that contains it.
func (s *scanner) block() {
	explicit := 0
	for s.at++; !s.blankAt(0); s.at++ {
		if c := s.peek(0); c >= '1' && c <= '9' {
			explicit = int(c - '0')
		}
	}
	for s.peek(0) == ' ' {
		s.at++
	}
	if s.peek(0) == '\t' {
		s.refuse(tabMessage)
	}
	s.restOfLine()
	if s.at < len(s.text) {
		s.next()
	}
	deep := max(1, s.indent+1)
	if explicit > 0 {
		deep += explicit - 1
	}
	for first := explicit == 0; s.at < len(s.text); {
		line, _, _ := strings.Cut(s.text[s.at:], "\n")
		spaces := len(line) - len(strings.TrimLeft(line, " "))
		blank := strings.Trim(line, " \r") == ""
		if !blank && spaces < deep {
			return
		}
		if !blank && first {
			deep, first = spaces, false
		}
		s.restOfLine()
		if s.at < len(s.text) {
			s.next()
		}
	}
}
