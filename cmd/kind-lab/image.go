// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"sigs.k8s.io/kind/pkg/apis/config/defaults"
)

// own selects the image that "make kind-node-image" builds.
const own = "own"

// registryTimeout is how long the registry may take to report whether it has
// kind's node image.
const registryTimeout = 8 * time.Second

// chooseNodeImage resolves a choice to own or to an image name. why is empty
// unless "auto" had to be resolved to own.
func (a *app) chooseNodeImage(ctx context.Context, d *docker, choice string) (image, why string) {
	switch choice {
	case own:
		return own, ""
	case "kind":
		return defaults.Image, ""
	case "auto":
	default:
		return choice, ""
	}
	if d.hasImage(ctx, defaults.Image) {
		return defaults.Image, ""
	}
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	if _, err := d.run(ctx, "manifest", "inspect", defaults.Image); err != nil {
		return own, "kind's node image is not available from the registry; using the one built from packages"
	}
	return defaults.Image, ""
}

// ensureNodeImage makes the image available in the engine and returns its name.
func (a *app) ensureNodeImage(ctx context.Context, d *docker, choice string) (string, error) {
	image, why := a.chooseNodeImage(ctx, d, choice)
	if why != "" {
		a.logf("%s", why)
	}
	if image == own {
		return a.loadOwnImage(ctx, d)
	}
	if d.hasImage(ctx, image) {
		return image, nil
	}
	a.logf("pulling %s", image)
	cmd := exec.CommandContext(ctx, "docker", "pull", image)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("pulling %s: %w; --node-image=own uses the image that \"make kind-node-image\" builds", image, err)
	}
	return image, nil
}

// loadOwnImage loads the image in bin/ unless the engine has it. The digest of
// its recipe is part of its name.
func (a *app) loadOwnImage(ctx context.Context, d *docker) (string, error) {
	archive, err := filepath.EvalSymlinks(filepath.Join(a.root, "bin", "kind-node.tar"))
	if err != nil {
		return "", fmt.Errorf("finding the node image: %w; build it with \"make kind-node-image\"", err)
	}
	name := "pxelab/kind-node:" + filepath.Base(filepath.Dir(archive))
	if d.hasImage(ctx, name) {
		return name, nil
	}
	a.logf("loading the node image into the engine")
	if _, err := d.run(ctx, "load", "--quiet", "--input", archive); err != nil {
		return "", err
	}
	if !d.hasImage(ctx, name) {
		return "", fmt.Errorf("%s does not contain the image %s; remove its directory and run \"make kind-node-image\"", archive, name)
	}
	a.forgetOldImages(ctx, d, name)
	return name, nil
}

// forgetOldImages removes node images of other recipes. It ignores errors, such
// as that of an image in use.
func (a *app) forgetOldImages(ctx context.Context, d *docker, keep string) {
	names, err := d.lines(ctx, "image", "ls", "--format={{.Repository}}:{{.Tag}}", "pxelab/kind-node")
	if err != nil {
		return
	}
	for _, name := range names {
		if name != keep {
			_, _ = d.run(ctx, "image", "rm", name)
		}
	}
}
