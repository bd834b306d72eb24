// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Values of --samples; any other value is a directory.
const (
	samplesUbuntu = "ubuntu"
	samplesDebian = "debian"
	samplesNone   = "none"
)

// reachTimeout is how long Ubuntu's server may take to answer.
const reachTimeout = 5 * time.Second

// samplesDir returns the directory of a choice of samples.
func (l *lab) samplesDir(choice string) string {
	switch choice {
	case samplesUbuntu:
		return filepath.Join(l.root, "config", "samples")
	case samplesDebian:
		return filepath.Join(l.root, "config", "samples", "debian")
	default:
		return choice
	}
}

// chooseSamples resolves "auto" and returns the reason. It returns any other
// choice unchanged.
func (l *lab) chooseSamples(ctx context.Context, choice string) (chosen, why string, err error) {
	if choice != "auto" {
		return choice, "", nil
	}
	address, err := l.ubuntuAddress()
	if err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if err := reach(ctx, address); err != nil {
		return samplesDebian, fmt.Sprintf("using Debian images built from packages, because Ubuntu's server is unreachable: %v", err), nil
	}
	return samplesUbuntu, "using Ubuntu's cloud images: " + address + " is reachable", nil
}

// ubuntuAddress returns the URL of the checksum file of the sample server's image.
func (l *lab) ubuntuAddress() (string, error) {
	objects, err := readObjects(l.samplesDir(samplesUbuntu))
	if err != nil {
		return "", err
	}
	for _, o := range objects {
		address, _, _ := unstructured.NestedString(o.Object, "spec", "machine", "image", "checksum")
		if strings.HasPrefix(address, "https://") || strings.HasPrefix(address, "http://") {
			return address, nil
		}
	}
	return "", fmt.Errorf("the samples in %s contain no server image with a checksum URL", l.samplesDir(samplesUbuntu))
}

// reach sends a HEAD request and requires status 200.
func reach(ctx context.Context, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, address, nil)
	if err != nil {
		return err
	}
	client := &http.Client{}
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", address, response.Status)
	}
	return nil
}

// readObjects reads the objects of a directory's YAML files in the order of
// their names. Like "kubectl apply -f DIR" it does not descend into directories.
func readObjects(dir string) ([]*unstructured.Unstructured, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the objects to apply: %w", err)
	}
	var objects []*unstructured.Unstructured
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if e.IsDir() || ext != ".yaml" && ext != ".yml" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the objects to apply: %w", err)
		}
		found, err := parseObjects(text)
		if err != nil {
			return nil, fmt.Errorf("parsing %s: %w", filepath.Join(dir, e.Name()), err)
		}
		objects = append(objects, found...)
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("%s contains no objects", dir)
	}
	return objects, nil
}
