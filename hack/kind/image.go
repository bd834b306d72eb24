// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"sigs.k8s.io/kind/pkg/apis/config/defaults"
)

// own stands for the image that "make kind-node-image" builds.
const own = "own"

// registryPatience is how long the registry may take to say that it has kind's
// node image.
const registryPatience = 8 * time.Second

// chooseNodeImage resolves a choice to own or to an image's name, and says why
// where there was one to be made.
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
	ctx, cancel := context.WithTimeout(ctx, registryPatience)
	defer cancel()
	if _, err := d.run(ctx, "manifest", "inspect", defaults.Image); err != nil {
		return own, "kind's own node image cannot be had from here: taking the one that is built from packages"
	}
	return defaults.Image, ""
}

// ensureNodeImage makes the engine have the image and returns its name there.
func (a *app) ensureNodeImage(ctx context.Context, d *docker, choice string) (string, error) {
	image, why := a.chooseNodeImage(ctx, d, choice)
	if why != "" {
		a.say("%s", why)
	}
	if image == own {
		return a.loadOwnImage(ctx, d)
	}
	if d.hasImage(ctx, image) {
		return image, nil
	}
	a.say("pulling %s", image)
	cmd := exec.CommandContext(ctx, "docker", "pull", image)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("pulling %s: %w; with --node-image=own the one is taken that \"make kind-node-image\" builds", image, err)
	}
	return image, nil
}

// loadOwnImage gives the engine the image in bin/, unless it has it. Its name
// has the digest of its recipe.
func (a *app) loadOwnImage(ctx context.Context, d *docker) (string, error) {
	archive, err := filepath.EvalSymlinks(filepath.Join(a.root, "bin", "kind-node.tar"))
	if err != nil {
		return "", fmt.Errorf("the node image has not been built: make kind-node-image: %w", err)
	}
	name := "pxelab/kind-node:" + filepath.Base(filepath.Dir(archive))
	if d.hasImage(ctx, name) {
		return name, nil
	}
	a.say("giving the engine the node image")
	if _, err := d.run(ctx, "load", "--quiet", "--input", archive); err != nil {
		return "", err
	}
	if !d.hasImage(ctx, name) {
		return "", errors.New(archive + " holds no image " + name + ": remove that directory and run make kind-node-image")
	}
	a.forgetOldImages(ctx, d, name)
	return name, nil
}

// forgetOldImages removes node images of other recipes. One that is in use
// stays, and is no reason to fail.
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
