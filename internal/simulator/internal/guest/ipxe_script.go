// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"strings"
)

const (
	// maxDepth bounds scripts that chain to scripts, maxCommands the commands between
	// two that wait: a hostile script must not keep a processor busy.
	maxDepth    = 16
	maxCommands = 100_000
	// maxExpanded bounds a line after its settings are expanded, in bytes.
	maxExpanded = 8 << 10
)

// errExit ends a script by the command exit.
type errExit struct{ status error }

func (errExit) Error() string { return "the script exits" }

// errGoto continues a script at a label.
type errGoto struct{ label string }

func (errGoto) Error() string { return "the script jumps" }

// errReplace continues with another script instead of the one that runs.
type errReplace struct{ image *ipxeImage }

func (errReplace) Error() string { return "the script is replaced" }

// isEnd reports whether an error ends iPXE or the script, and is not the failure of a
// command.
func isEnd(ctx context.Context, err error) bool {
	var failure *ipxeError
	return ctx.Err() != nil || err != nil && !errors.As(err, &failure)
}

// run executes a script. It returns nil, the *ipxeError with which it fails, or how
// iPXE ends.
func (x *ipxe) run(ctx context.Context, image *ipxeImage, depth int) error {
	if depth > maxDepth {
		return errIPXEMemory
	}
	outer := x.base
	defer func() { x.base = outer }()
	x.base = image.uri
	lines := strings.Split(string(image.script), "\n")
	for i := 1; i < len(lines); i++ { // the first line is the magic
		err := x.line(ctx, strings.TrimRight(lines[i], "\r"), depth)
		var jump errGoto
		var exit errExit
		var replace errReplace
		switch {
		case errors.As(err, &jump):
			at := labelOf(lines, jump.label)
			if at < 0 {
				return errIPXENoLabel
			}
			i = at
		case errors.As(err, &replace):
			x.base = replace.image.uri
			lines = strings.Split(string(replace.image.script), "\n")
			i = 0
		case errors.As(err, &exit):
			return exit.status
		case err != nil:
			return err
		}
	}
	return nil
}

func labelOf(lines []string, label string) int {
	for i, line := range lines {
		fields := strings.Fields(line)
		if len(fields) == 1 && fields[0] == ":"+label {
			return i
		}
	}
	return -1
}

// line executes one line: commands that are joined by ||, && or ;.
func (x *ipxe) line(ctx context.Context, line string, depth int) error {
	trimmed := strings.TrimLeft(line, " \t")
	if strings.HasPrefix(trimmed, ":") || strings.HasPrefix(trimmed, "#") {
		return nil
	}
	words := splitWords(x.expand(trimmed))
	var err error
	run := true
	for len(words) > 0 {
		end := 0
		for end < len(words) && !isOperator(words[end]) {
			end++
		}
		if run {
			err = x.command(ctx, words[:end], depth)
			if isEnd(ctx, err) {
				return err
			}
		}
		if end == len(words) {
			break
		}
		switch words[end] {
		case "||":
			run = err != nil
		case "&&":
			run = err == nil
		default:
			run = true
		}
		words = words[end+1:]
		if len(words) == 0 && run {
			err = nil // an empty command succeeds
		}
	}
	return err
}

func isOperator(word string) bool { return word == "||" || word == "&&" || word == ";" }

// splitWords splits a line at white space outside quotes, up to a comment.
func splitWords(line string) []string {
	var words []string
	var word strings.Builder
	inWord := false
	quote := rune(0)
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '"' || c == '\'':
			quote, inWord = c, true
		case c == ' ' || c == '\t':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case c == '#' && !inWord:
			return words
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

// expand replaces ${setting}, innermost first.
func (x *ipxe) expand(line string) string {
	for range maxExpanded {
		start := strings.Index(line, "${")
		if start < 0 {
			return line
		}
		end := strings.Index(line[start:], "}")
		if end < 0 {
			return line
		}
		end += start
		start = strings.LastIndex(line[:end], "${")
		line = line[:start] + x.setting(line[start+2:end]) + line[end+1:]
		if len(line) > maxExpanded {
			return line[:maxExpanded]
		}
	}
	return line
}
