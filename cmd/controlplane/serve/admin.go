// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"fmt"
	"os"

	"k8s.io/client-go/rest"

	"github.com/pxelab/pxelab/cmd/controlplane/internal/kubeconfig"
	"github.com/pxelab/pxelab/cmd/controlplane/internal/pki"
)

func readAdmin(addr string, keys pki.Bundle) (kubeconfig.Admin, error) {
	admin := kubeconfig.Admin{Server: "https://" + addr}
	for path, to := range map[string]*[]byte{keys.CACert: &admin.CA, keys.AdminCert: &admin.Cert, keys.AdminKey: &admin.Key} {
		data, err := os.ReadFile(path)
		if err != nil {
			return kubeconfig.Admin{}, fmt.Errorf("reading the admin's keys: %w", err)
		}
		*to = data
	}
	return admin, nil
}

// clientConfig is for clients in this process. They are few and trusted, so
// they are not rate limited.
func clientConfig(admin kubeconfig.Admin) *rest.Config {
	return &rest.Config{
		Host:            admin.Server,
		TLSClientConfig: rest.TLSClientConfig{CAData: admin.CA, CertData: admin.Cert, KeyData: admin.Key},
		UserAgent:       "pxelab-controlplane",
		QPS:             -1,
	}
}
