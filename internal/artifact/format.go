// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/pxelab/pxelab/internal/bootfile"
	"github.com/pxelab/pxelab/internal/imageformat"
)

func knownFormat(format string) error {
	if format == "" || slices.Contains(imageformat.All(), format) {
		return nil
	}
	return failf(ReasonUnsupportedFormat, nil,
		"format %q is not supported; use one of %s", format, strings.Join(imageformat.All(), ", "))
}

// checkContent compares the first bytes of verified content with what the source
// declares, so that a wrong declaration is reported here and not by a failing
// conversion or by a machine that does not boot.
func checkContent(file string, src Source) error {
	if src.Format == "" && src.Boot == (bootfile.Expectation{}) {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("detecting the format of %s: %w", src, err)
	}
	defer func() { _ = f.Close() }()
	if src.Format != "" {
		return checkFormat(f, src)
	}
	err = src.Boot.Check(f)
	var mismatch *bootfile.MismatchError
	if errors.As(err, &mismatch) {
		return failf(ReasonUnsupportedFormat, err,
			"%s is %s, but the %s must be %s; correct its location, or the architecture",
			src, mismatch.Found, src.Boot.Kind, mismatch.Want)
	}
	if err != nil {
		return fmt.Errorf("detecting the format of %s: %w", src, err)
	}
	return nil
}

func checkFormat(f *os.File, src Source) error {
	head := make([]byte, imageformat.HeadSize)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("detecting the format of %s: %w", src, err)
	}
	head = head[:n]
	if what, remedy := imageformat.Unsupported(head); what != "" {
		return failf(ReasonUnsupportedFormat, nil, "%s is %s, which is not supported as an image; %s", src, what, remedy)
	}
	if found := imageformat.Detect(head); found != src.Format {
		return failf(ReasonUnsupportedFormat, nil,
			"%s is declared as %s but its content is %s; set format to %s", src, src.Format, found, found)
	}
	return nil
}
