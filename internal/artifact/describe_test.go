// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// answer serves each connection with a fixed text.
func answer(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = conn.Write([]byte(text))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

func TestErrorsContainNothingOfResponses(t *testing.T) {
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, text := range map[string]string{
		"another protocol":  "SSH-2.0-s3cr3t\r\n",
		"status":            "HTTP/1.1 403 s3cr3t AKIA\r\nContent-Length: 0\r\n\r\n",
		"retryable status":  "HTTP/1.1 503 s3cr3t\r\nContent-Length: 0\r\n\r\n",
		"status code":       "HTTP/1.1 s3cr3t OK\r\n\r\n",
		"header":            "HTTP/1.1 200 OK\r\ns3cr3t\r\n\r\n",
		"length":            "HTTP/1.1 200 OK\r\nContent-Length: s3cr3t\r\n\r\n",
		"encoding":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: s3cr3t\r\n\r\n",
		"chunk":             chunked + "s3cr3t\r\n",
		"location":          "HTTP/1.1 302 Found\r\nLocation: http://%zzs3cr3t/\r\n\r\n",
		"location's scheme": "HTTP/1.1 302 Found\r\nLocation: s3cr3t://host/\r\n\r\n",
		"location's host":   "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/s3cr3t\r\n\r\n",
		"range":             "HTTP/1.1 206 s3cr3t\r\nContent-Range: s3cr3t\r\nContent-Length: 6\r\n\r\ns3cr3t",
		"content":           "HTTP/1.1 200 OK\r\n\r\n" + secret,
		"truncated":         "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + secret,
		"checksums":         "HTTP/1.1 200 OK\r\n\r\n" + strings.TrimPrefix(sha256Of([]byte(secret)), "sha256:") + "  s3cr3t/f\n",
		"checksums differ":  "HTTP/1.1 200 OK\r\n\r\n" + sumA + "  s3cr3t/f\n" + sumB + "  AKIA/f\n",
		"other checksums":   "HTTP/1.1 200 OK\r\n\r\n" + sumA + "  s3cr3t\n" + sumB + "  AKIA\nSHA-1 (s3cr3t) = abcd\nS3CR3T (s3cr3t) = abcd\n",
	} {
		t.Run(name, func(t *testing.T) {
			url := answer(t, text)
			s := openStore(t, filepath.Join(t.TempDir(), "store"), func(o *Options) { o.Attempts = 1 })
			for _, checksum := range []string{sha256Of(nil), sha512Of(nil), url + "/SUMS"} {
				_, err := s.Ensure(t.Context(), Source{URL: url + "/f", Checksum: checksum}, nil)
				if err == nil {
					t.Fatalf("%s: got no error, want one", checksum)
				}
				wantNothingOf(t, err)
				if strings.Contains(strings.ToLower(err.Error()), "s3cr3t") || strings.Contains(err.Error(), sumA) {
					t.Errorf("got error %q, want nothing of the response", err)
				}
			}
		})
	}
}
