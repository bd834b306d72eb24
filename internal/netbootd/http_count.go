// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"io"
	"net/http"
	"strings"
)

// Results of requests by HTTP and TFTP.
const (
	resultOK      = "OK"
	resultRefused = "Refused"
	resultFailed  = "Failed"
)

// counted counts the requests that next serves, and the bytes of their answers.
func (c *counters) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		response := &countedResponse{ResponseWriter: w, counters: c}
		next.ServeHTTP(response, r)
		if kind := requestKind(r.Pattern); kind != alivePath {
			c.sawRequest(requestKey{serviceHTTP, kind, response.result()})
		}
	})
}

// requestKind returns the kind of the requests that match a pattern of the mux.
func requestKind(pattern string) string {
	_, path, _ := strings.Cut(pattern, " ")
	if path == alivePath {
		return alivePath
	}
	if path == "/"+fileScript {
		return fileScript
	}
	if strings.HasPrefix(path, "/program/") {
		return "program"
	}
	if file, ok := strings.CutPrefix(path, "/m/{token}/"); ok {
		return file
	}
	return kindOther
}

// countedResponse counts the bytes of an answer. It passes ReadFrom on to the
// ResponseWriter, because sendfile depends on it.
type countedResponse struct {
	http.ResponseWriter
	counters *counters
	status   int // 0 until it is written
}

func (w *countedResponse) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *countedResponse) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *countedResponse) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.counters.sawBytes(serviceHTTP, int64(n))
	return n, err
}

func (w *countedResponse) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, r)
	w.counters.sawBytes(serviceHTTP, n)
	return n, err
}

// result returns the result that the status reports. A handler that sets none sends
// the status 200.
func (w *countedResponse) result() string {
	switch {
	case w.status >= http.StatusInternalServerError:
		return resultFailed
	case w.status >= http.StatusBadRequest:
		return resultRefused
	default:
		return resultOK
	}
}
