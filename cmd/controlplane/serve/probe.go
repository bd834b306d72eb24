// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/pxelab/pxelab/cmd/controlplane/internal/kubeconfig"
)

// probe requests /readyz as the admin.
type probe struct {
	client *http.Client
	url    string
	last   string // the last response that was not "ok", or the last error
}

func newProbe(admin kubeconfig.Admin) (*probe, error) {
	client, err := rest.HTTPClientFor(clientConfig(admin))
	if err != nil {
		return nil, fmt.Errorf("creating the readiness client: %w", err)
	}
	client.Timeout = 5 * time.Second
	return &probe{client: client, url: admin.Server + "/readyz?verbose"}, nil
}

func (p *probe) close() { p.client.CloseIdleConnections() }

// ready reports whether /readyz answered with status 200.
func (p *probe) ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		p.last = err.Error()
		return false
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.last = err.Error()
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		p.last = err.Error()
		return false
	}
	if resp.StatusCode != http.StatusOK {
		p.last = failing(resp.Status, string(body))
		return false
	}
	return true
}

// failing reduces a verbose response to the checks that did not pass.
func failing(status, body string) string {
	bad := []string{status}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "[-]") {
			bad = append(bad, strings.TrimSpace(line))
		}
	}
	return strings.Join(bad, "; ")
}
