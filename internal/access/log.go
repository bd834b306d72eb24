// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"time"
)

// logPoll is how often a followed log is looked at. Polling costs one fstat
// and works on every file system, which change notification does not.
const logPoll = 200 * time.Millisecond

// copyLog answers with the file, and with follow goes on as it grows until ctx
// ends or the file is removed. A followed file that is not there yet is waited
// for; one that shrank is begun anew.
func copyLog(ctx context.Context, w http.ResponseWriter, path string, follow bool) error {
	file, err := openLog(ctx, w, path, follow)
	if err != nil || file == nil {
		return err
	}
	defer file.Close()

	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	var offset int64
	for {
		// From here on an error can only be told by ending the answer.
		n, err := io.Copy(w, io.NewSectionReader(file, offset, 1<<62-offset))
		offset += n
		if err != nil || !follow || flush() != nil {
			return nil
		}
		if !pause(ctx) {
			return nil
		}
		info, err := file.Stat()
		if err != nil {
			return nil
		}
		if info.Size() < offset {
			offset = 0
		}
		if now, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || (err == nil && !os.SameFile(now, info)) {
			_, _ = io.Copy(w, io.NewSectionReader(file, offset, 1<<62-offset))
			return nil
		}
	}
}

// openLog opens the file. Nil without an error means that ctx ended first.
func openLog(ctx context.Context, w http.ResponseWriter, path string, wait bool) (*os.File, error) {
	told := false
	for {
		file, err := os.Open(path)
		switch {
		case err == nil:
			return file, nil
		case told && !errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("opening the serial log: %w", err)
		case !wait:
			return nil, fmt.Errorf("there is no serial log yet, the machine has not been started: %w", ErrNotFound)
		}
		if !told {
			// The client learns that it is being served.
			w.WriteHeader(http.StatusOK)
			if http.NewResponseController(w).Flush() != nil {
				return nil, nil
			}
			told = true
		}
		if !pause(ctx) {
			return nil, nil
		}
	}
}

// pause waits for one poll; false when ctx ended.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(logPoll)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
