// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Metrics are the counters and sizes of one run of netbootd. Counters start at zero with
// StartedAt and do not decrease before the next run. The names in them are from small,
// fixed sets that do not depend on what guests send.
type Metrics struct {
	StartedAt time.Time `json:"startedAt"`
	// Requests counts what clients of the lab requested, except netbootd's own health
	// checks.
	Requests []RequestCount `json:"requests,omitempty"`
	// Refused counts the refused requests by kind.
	Refused map[string]int64 `json:"refused,omitempty"`
	// SentBytes counts the bytes of files and texts that were sent, by service: "tftp",
	// "http".
	SentBytes map[string]int64 `json:"sentBytes,omitempty"`
	// Renderings counts the texts that were rendered for machines, and
	// FailedRenderings those that could not be, by file.
	Renderings       map[string]int64 `json:"renderings,omitempty"`
	FailedRenderings map[string]int64 `json:"failedRenderings,omitempty"`

	// Leases is the number of leases in force, Machines that of the entries.
	Leases   int64 `json:"leases"`
	Machines int64 `json:"machines"`
	// Blobs and BlobBytes are the number and the size of the files and texts that are
	// stored whole; FreeBytes is what the file system has left.
	Blobs     int64 `json:"blobs"`
	BlobBytes int64 `json:"blobBytes"`
	FreeBytes int64 `json:"freeBytes"`
}

// RequestCount is the number of requests of one kind with one result.
type RequestCount struct {
	// Service is "dhcp", "tftp" or "http".
	Service string `json:"service"`
	// Kind is the kind of program that sent a DHCP request, or the file that was
	// requested.
	Kind string `json:"kind"`
	// Result is the kind of the answer.
	Result string `json:"result"`
	Count  int64  `json:"count"`
}

const (
	// maxMetricsBytes bounds the encoded Metrics, maxMetricNames the number of counters in
	// each of its fields, and maxMetricName the length of a name.
	maxMetricsBytes = 64 << 10
	maxMetricNames  = 256
	maxMetricName   = 40
)

var errMetrics = errors.New("netbootd reported invalid metrics")

// Check returns an error if m is not what a netbootd reports.
func (m *Metrics) Check() error {
	if len(m.Requests) > maxMetricNames {
		return fmt.Errorf("%w: %d counts of requests, more than %d", errMetrics, len(m.Requests), maxMetricNames)
	}
	for _, r := range m.Requests {
		for _, name := range []string{r.Service, r.Kind, r.Result} {
			if err := checkMetric(name, r.Count); err != nil {
				return err
			}
		}
	}
	for _, counters := range []map[string]int64{m.Refused, m.SentBytes, m.Renderings, m.FailedRenderings} {
		if len(counters) > maxMetricNames {
			return fmt.Errorf("%w: %d counters of one kind, more than %d", errMetrics, len(counters), maxMetricNames)
		}
		for name, count := range counters {
			if err := checkMetric(name, count); err != nil {
				return err
			}
		}
	}
	for _, size := range []int64{m.Leases, m.Machines, m.Blobs, m.BlobBytes, m.FreeBytes} {
		if size < 0 {
			return fmt.Errorf("%w: the negative size %d", errMetrics, size)
		}
	}
	return nil
}

func checkMetric(name string, count int64) error {
	if count < 0 {
		return fmt.Errorf("%w: the negative count %d", errMetrics, count)
	}
	if name == "" || len(name) > maxMetricName {
		return fmt.Errorf("%w: a name of %d bytes instead of 1 to %d", errMetrics, len(name), maxMetricName)
	}
	for i := range len(name) {
		if c := name[i]; !isNameByte(c) {
			return fmt.Errorf("%w: a name with the byte %#02x", errMetrics, c)
		}
	}
	return nil
}

func isNameByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_', c == '/':
		return true
	default:
		return false
	}
}

// DecodeMetrics decodes and checks Metrics.
func DecodeMetrics(raw []byte) (Metrics, error) {
	var m Metrics
	if err := json.Unmarshal(raw, &m); err != nil {
		return Metrics{}, fmt.Errorf("%w: %w", errMetrics, err)
	}
	if err := m.Check(); err != nil {
		return Metrics{}, err
	}
	return m, nil
}

// Metrics fetches the metrics, until ctx ends, for at most a minute. The error wraps
// ErrVersion if netbootd has none.
func (c *Client) Metrics(ctx context.Context) (Metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	m, err := c.metrics(ctx)
	if err != nil {
		return Metrics{}, fmt.Errorf("fetching the metrics of %s: %w", c.address, err)
	}
	return m, nil
}

func (c *Client) metrics(ctx context.Context) (Metrics, error) {
	resp, err := c.send(ctx, request{method: http.MethodGet, path: "/v1/metrics"})
	if err != nil {
		return Metrics{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxMetricsBytes+1))
	if err != nil {
		return Metrics{}, err
	}
	if len(raw) > maxMetricsBytes {
		return Metrics{}, fmt.Errorf("%w: more than %d bytes", errMetrics, maxMetricsBytes)
	}
	return DecodeMetrics(raw)
}
