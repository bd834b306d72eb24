// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", 99) + "\n"
	for name, c := range map[string]struct {
		text string
		want []string
		err  error // nil for too long
	}{
		"lines":                       {"a\nbc\n", []string{"a\n", "bc\n"}, io.EOF},
		"as long as the limit":        {long + long, []string{long, long}, io.EOF},
		"longer than the limit":       {"a\nx" + long, []string{"a\n"}, nil},
		"endless":                     {strings.Repeat("x", 5000), nil, nil},
		"truncated":                   {"a\nb", []string{"a\n"}, io.ErrUnexpectedEOF},
		"empty":                       {"", nil, io.EOF},
		"a line of the buffer's size": {strings.Repeat("x", 15) + "\n" + "b\n", []string{strings.Repeat("x", 15) + "\n", "b\n"}, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			for _, source := range []io.Reader{strings.NewReader(c.text), iotest.OneByteReader(strings.NewReader(c.text))} {
				r := bufio.NewReaderSize(source, 16)
				for _, want := range c.want {
					if got, err := readLine(r, 100); err != nil || string(got) != want {
						t.Fatalf("read %q, %v; want %q", got, err, want)
					}
				}
				got, err := readLine(r, 100)
				if got != nil || err == nil {
					t.Fatalf("read %q, %v; want an error", got, err)
				}
				if c.err == nil && !strings.Contains(err.Error(), "longer than 100 bytes") {
					t.Errorf("got error %v, want one about the limit", err)
				}
				if c.err != nil && !errors.Is(err, c.err) {
					t.Errorf("got error %v, want %v", err, c.err)
				}
			}
		})
	}
}
