// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/pxelab/pxelab/internal/imageformat"
)

func knownFormat(format string) error {
	if format == "" || slices.Contains(imageformat.All(), format) {
		return nil
	}
	return failf(ReasonUnsupportedFormat, nil,
		"format %q is not supported; use one of %s", format, strings.Join(imageformat.All(), ", "))
}

// checkFormat compares the first bytes of verified content with the declared
// format, so that a wrong declaration is reported here and not by a failing
// conversion.
func checkFormat(file, format string, src fmt.Stringer) error {
	if format == "" {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("detecting the format of %s: %w", src, err)
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, imageformat.HeadSize)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("detecting the format of %s: %w", src, err)
	}
	head = head[:n]
	if other := imageformat.DetectUnsupported(head); other != "" {
		return failf(ReasonUnsupportedFormat, nil,
			"%s is a %s file, which is not supported; convert it to qcow2 or raw", src, other)
	}
	if found := imageformat.Detect(head); found != format {
		return failf(ReasonUnsupportedFormat, nil,
			"%s is declared as %s but its content is %s; set format to %s", src, format, found, found)
	}
	return nil
}
