// SPDX-License-Identifier: Apache-2.0

// Command probe runs in a pod of a test. It requests the API server's version as
// any program in a cluster would, by DNS name and with the pod's token, writes the
// response to the file named by its argument, and prints it.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	account = "/var/run/secrets/kubernetes.io/serviceaccount"
	limit   = 30 * time.Second
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	token, err := os.ReadFile(filepath.Join(account, "token"))
	if err != nil {
		return err
	}
	authority, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return fmt.Errorf("%s contains no CA certificate", account)
	}
	client := &http.Client{
		Timeout:   limit,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
	}
	request, err := http.NewRequest(http.MethodGet, "https://kubernetes.default.svc/version", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the API server returned %s: %s", response.Status, body)
	}
	if err := os.WriteFile(file, body, 0o600); err != nil {
		return err
	}
	fmt.Printf("uid %d reached %s\n", os.Getuid(), body)
	return nil
}
