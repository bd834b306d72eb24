// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"sigs.k8s.io/kind/pkg/cluster/nodes"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"
)

// nodes are the cluster's; it fails when there is none.
func (a *app) nodes(ctx context.Context) ([]nodes.Node, error) {
	d, err := a.runningEngine(ctx)
	if err != nil {
		return nil, err
	}
	var found []nodes.Node
	if d != nil {
		if found, err = a.provider().ListInternalNodes(a.name); err != nil {
			return nil, fmt.Errorf("listing the nodes of %s: %w", a.name, err)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("there is no cluster %s: make kind-up", a.name)
	}
	return found, nil
}

// load gives every node the images that the arguments name: archives where they
// name files, else the engine's.
func (a *app) load(ctx context.Context, what []string) error {
	found, err := a.nodes(ctx)
	if err != nil {
		return err
	}
	for _, one := range what {
		for _, node := range found {
			if err := loadOne(ctx, node, one); err != nil {
				return fmt.Errorf("loading %s: %w", one, err)
			}
		}
		a.say("loaded %s", one)
	}
	return nil
}

func loadOne(ctx context.Context, node nodes.Node, what string) error {
	if file, err := os.Open(what); err == nil {
		defer file.Close()
		return nodeutils.LoadImageArchive(node, file)
	}
	reader, writer := io.Pipe()
	save := exec.CommandContext(ctx, "docker", "save", what)
	save.Stdout, save.Stderr = writer, os.Stderr
	if err := save.Start(); err != nil {
		return err
	}
	saved := make(chan error, 1)
	go func() {
		err := save.Wait()
		_ = writer.CloseWithError(err) // nil ends the stream as it should
		saved <- err
	}()
	err := nodeutils.LoadImageArchive(node, reader)
	_ = reader.Close() // so that save ends when the node did not want all of it
	if err := <-saved; err != nil {
		return fmt.Errorf("it is no file, and of the engine's images: docker save: %w", err)
	}
	return err
}

// logs writes what kind collects, and our engine's log if it is in ours.
func (a *app) logs(ctx context.Context, dir string) error {
	if _, err := a.nodes(ctx); err != nil {
		return err
	}
	err := a.provider().CollectLogs(a.name, dir)
	if own := a.ownEngine(); err == nil {
		if text, readErr := os.ReadFile(own.Log()); readErr == nil {
			err = os.WriteFile(dir+"/engine.log", text, 0o644)
		} else if !errors.Is(readErr, os.ErrNotExist) {
			err = readErr
		}
	}
	if err != nil {
		return fmt.Errorf("collecting logs in %s: %w", dir, err)
	}
	a.say("the logs are in %s", dir)
	return nil
}
