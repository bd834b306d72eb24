// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sampleMetrics() Metrics {
	return Metrics{
		StartedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Requests:  []RequestCount{{Service: "http", Kind: "ci/meta-data", Result: "OK", Count: 3}},
		Refused:   map[string]int64{"HTTPUnknownToken": 1}, SentBytes: map[string]int64{"http": 1 << 40},
		Renderings: map[string]int64{"boot.ipxe": 2}, Leases: 2, Machines: 3, Blobs: 4, BlobBytes: 5, FreeBytes: 6,
	}
}

func TestMetricsSurviveEncoding(t *testing.T) {
	want := sampleMetrics()
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeMetrics(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("DecodeMetrics (-want +got):\n%s", diff)
	}
}

func TestMetricsAreBounded(t *testing.T) {
	many := map[string]int64{}
	for i := range maxMetricNames + 1 {
		many[fmt.Sprint("Kind", i)] = 1
	}
	for name, spoil := range map[string]func(*Metrics){
		"negative count":     func(m *Metrics) { m.Requests[0].Count = -1 },
		"negative counter":   func(m *Metrics) { m.Refused["HTTPUnknownToken"] = -1 },
		"negative size":      func(m *Metrics) { m.FreeBytes = -1 },
		"empty name":         func(m *Metrics) { m.Requests[0].Kind = "" },
		"long name":          func(m *Metrics) { m.Refused[strings.Repeat("x", maxMetricName+1)] = 1 },
		"name with a quote":  func(m *Metrics) { m.Renderings[`boot"`] = 1 },
		"name with a letter": func(m *Metrics) { m.SentBytes["é"] = 1 },
		"too many kinds":     func(m *Metrics) { m.Refused = many },
		"too many requests":  func(m *Metrics) { m.Requests = make([]RequestCount, maxMetricNames+1) },
	} {
		m := sampleMetrics()
		spoil(&m)
		if err := m.Check(); !errors.Is(err, errMetrics) {
			t.Errorf("%s: got error %v, want errMetrics", name, err)
		}
	}
}

func FuzzMetrics(f *testing.F) {
	raw, err := json.Marshal(sampleMetrics())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"requests":[{"service":"http","kind":"\u0000","result":"OK","count":1}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := DecodeMetrics(raw)
		if err != nil {
			if !errors.Is(err, errMetrics) {
				t.Errorf("got error %v, want errMetrics", err)
			}
			return
		}
		m.StartedAt = time.Time{}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeMetrics(again); err != nil {
			t.Errorf("got %v for what was decoded before", err)
		}
	})
}

func TestClientFetchesMetrics(t *testing.T) {
	answer := func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/v1/metrics" {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(sampleMetrics())
	}
	got, err := newClient(t, ClientOptions{}, answer).Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleMetrics(), got); diff != "" {
		t.Errorf("Metrics (-want +got):\n%s", diff)
	}
	endless := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"refused":{` + strings.Repeat(" ", 2*maxMetricsBytes) + `}}`))
	}
	if _, err := newClient(t, ClientOptions{}, endless).Metrics(t.Context()); !errors.Is(err, errMetrics) {
		t.Errorf("an answer that is too long: got error %v, want errMetrics", err)
	}
	if _, err := newClient(t, ClientOptions{}, http.NotFound).Metrics(t.Context()); !errors.Is(err, ErrVersion) {
		t.Errorf("a netbootd without metrics: got error %v, want ErrVersion", err)
	}
}
