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

// logPoll is the interval at which a followed log is polled. Polling costs one
// fstat and, unlike change notification, works on every file system.
const logPoll = 200 * time.Millisecond

// copyLog responds with the file. With follow it keeps streaming new output until
// ctx ends or the file is removed, waits for a file that does not exist yet, and
// restarts from the beginning if the file was truncated.
func copyLog(ctx context.Context, w http.ResponseWriter, path string, follow bool) error {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	file, err := openLog(ctx, w, path, follow)
	if err != nil || file == nil {
		return err
	}
	defer file.Close()

	flush := http.NewResponseController(w).Flush
	var offset int64
	for {
		// The status is sent, so an error can only end the response.
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

// openLog opens the file, waiting for it to exist if wait is set. It returns nil
// without an error if ctx ended, or if an error occurred after the status was sent.
func openLog(ctx context.Context, w http.ResponseWriter, path string, wait bool) (*os.File, error) {
	responded := false
	for {
		file, err := os.Open(path)
		switch {
		case err == nil:
			return file, nil
		case responded && !errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("opening the serial log: %w", err)
		case !wait:
			return nil, fmt.Errorf("no serial log yet, the machine has not been started: %w", ErrNotFound)
		}
		if !responded {
			// Lets the client return from its request.
			w.WriteHeader(http.StatusOK)
			if http.NewResponseController(w).Flush() != nil {
				return nil, nil
			}
			responded = true
		}
		if !pause(ctx) {
			return nil, nil
		}
	}
}

// pause waits for one poll interval. It returns false if ctx ended.
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
