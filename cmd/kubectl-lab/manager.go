// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/paths"
)

// restConfig returns the configuration of the cluster that kubectl would use, or of the
// lab's embedded control plane for a user without a kubeconfig.
func (a *app) restConfig() (*rest.Config, error) {
	if *a.config.KubeConfig == "" && os.Getenv("KUBECONFIG") == "" && !kubeconfigInHome() {
		if dirs, err := paths.Default(); err == nil {
			if _, err := os.Stat(dirs.Kubeconfig()); err == nil {
				*a.config.KubeConfig = dirs.Kubeconfig()
			}
		}
	}
	config, err := a.config.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("loading the kubeconfig: %w; start the lab with \"make up\", then export KUBECONFIG=$(make -s kubeconfig)", err)
	}
	return config, nil
}

func kubeconfigInHome() bool {
	home, err := os.UserHomeDir()
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(home, ".kube", "config"))
	return err == nil
}

// manager returns a client of the access API.
func (a *app) manager() (*access.Client, error) {
	config, err := a.restConfig()
	if err != nil {
		return nil, err
	}
	return access.NewClient(config)
}

// clusterArguments returns the flags with which this program uses the same cluster when
// ssh runs it, also from a shell with another environment. Credentials stay in the
// kubeconfig.
func clusterArguments(flags *pflag.FlagSet) ([]string, error) {
	var arguments []string
	for _, name := range []string{"kubeconfig", "context", "cluster", "user"} {
		flag := flags.Lookup(name)
		if flag == nil {
			continue
		}
		value := flag.Value.String()
		if name == "kubeconfig" {
			if value == "" {
				value = os.Getenv("KUBECONFIG")
			}
			if len(filepath.SplitList(value)) > 1 {
				continue // several files, which the flag cannot name
			}
			if value != "" {
				var err error
				if value, err = filepath.Abs(value); err != nil {
					return nil, err
				}
			}
		}
		if value != "" {
			arguments = append(arguments, "--"+name, value)
		}
	}
	return arguments, nil
}
