// SPDX-License-Identifier: Apache-2.0

// Command imagetar writes container images to an archive for "docker load", "ctr
// images import" and "kind load", without a container engine or a registry:
//
//	imagetar ARCHIVE <SPEC
//
// SPEC is a JSON list of images (see image). A layer is a tar archive, which is
// used unchanged, or a directory, which is archived as owned by root and without
// times, so that equal files produce equal images. Images can share layers.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Args[1:], os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "imagetar:", err)
		os.Exit(1)
	}
}

func run(args []string, spec io.Reader) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: imagetar ARCHIVE <SPEC")
	}
	images, err := parse(spec)
	if err != nil {
		return err
	}
	return write(args[0], images)
}

// image is one image of SPEC. The field names are those of the OCI image
// configuration.
type image struct {
	// Tags are the image's names, including tags.
	Tags []string `json:"tags"`
	// Layers are paths of tar archives and directories, lowest layer first.
	Layers []string `json:"layers"`
	// Architecture is a GOARCH value.
	Architecture string            `json:"architecture"`
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	Env          []string          `json:"env,omitempty"`
	WorkingDir   string            `json:"workingDir,omitempty"`
	User         string            `json:"user,omitempty"`
	StopSignal   string            `json:"stopSignal,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
}

func parse(spec io.Reader) ([]image, error) {
	var images []image
	decoder := json.NewDecoder(spec)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&images); err != nil {
		return nil, fmt.Errorf("reading the specification: %w", err)
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("the specification contains no images")
	}
	for _, i := range images {
		if len(i.Tags) == 0 || len(i.Layers) == 0 || i.Architecture == "" {
			return nil, fmt.Errorf("image %v: tags, layers and architecture are required", i.Tags)
		}
	}
	return images, nil
}
