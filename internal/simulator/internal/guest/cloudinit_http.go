// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// requestHead returns a request as Python's requests sends it.
func requestHead(method string, u *url.URL, lines ...string) string {
	head := []string{
		method + " " + u.RequestURI() + " HTTP/1.1", "Host: " + u.Host, "User-Agent: " + cloudInitAgent,
		"Accept-Encoding: gzip, deflate", "Accept: */*", "Connection: keep-alive",
	}
	return strings.Join(append(head, lines...), "\r\n")
}

// httpStatusError is a response other than success.
type httpStatusError struct{ status string }

func (e *httpStatusError) Error() string { return "the server answered " + e.status }

func (s *system) post(ctx context.Context, u *url.URL, body []byte, kind string, timeout time.Duration) error {
	lines := []string{fmt.Sprintf("Content-Length: %d", len(body))}
	if kind != "" {
		lines = append(lines, "Content-Type: "+kind)
	}
	_, err := s.request(ctx, httpRequest{
		method: http.MethodPost, url: u, head: requestHead(http.MethodPost, u, lines...), body: body, stall: timeout,
	})
	return err
}

// request sends one request over a separate connection, as cloud-init does.
func (s *system) request(ctx context.Context, r httpRequest) (string, error) {
	if s.network == nil {
		return "", errNoNetwork
	}
	dialCtx, cancel := context.WithTimeout(ctx, r.stall)
	defer cancel()
	c := httpClient{dial: s.network.dial}
	defer c.close()
	resp, err := c.do(dialCtx, r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	if err != nil {
		return "", err
	}
	if resp.StatusCode/100 != 2 {
		return "", &httpStatusError{resp.Status}
	}
	return string(text), nil
}

// fetchInstance fetches the documents of the seed.
func (s *system) fetchInstance(ctx context.Context) (*instance, error) {
	if s.network == nil {
		return nil, errNoNetwork
	}
	var d seed
	for _, document := range []struct {
		name     string
		text     *string
		optional bool
	}{
		{"network-config", new(string), true},
		{"meta-data", &d.metaData, false},
		{"user-data", &d.userData, false},
		{"vendor-data", &d.vendorData, true},
	} {
		text, err := s.fetchDocument(ctx, document.name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && !document.optional {
			return nil, err
		}
		*document.text = text
	}
	return d.parse()
}

func (s *system) fetchDocument(ctx context.Context, name string) (string, error) {
	u, err := url.Parse(s.record.SeedURL + name)
	if err != nil {
		return "", err
	}
	var text string
	for try := range seedTries {
		if try > 0 {
			if err := pause(ctx, seedPause); err != nil {
				return "", err
			}
		}
		text, err = s.request(ctx, httpRequest{
			method: http.MethodGet, url: u, head: requestHead(http.MethodGet, u), stall: seedTimeout,
		})
		if err == nil {
			return text, nil
		}
	}
	return "", fmt.Errorf("fetching %s: %w", name, err)
}
