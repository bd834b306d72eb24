// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"sigs.k8s.io/kind/pkg/cluster/nodes"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"
)

// nodes returns the cluster's nodes. It is an error if there are none.
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
		return nil, fmt.Errorf("the cluster %s does not exist; create it with \"make kind-up\"", a.name)
	}
	return found, nil
}

// load loads images into all nodes: archives where arguments name files, else
// images of the engine.
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
		a.logf("loaded %s", one)
	}
	return nil
}

func loadOne(ctx context.Context, node nodes.Node, what string) error {
	if file, err := os.Open(what); err == nil {
		defer file.Close()
		archive, err := decompressed(file)
		if err != nil {
			return fmt.Errorf("reading the archive: %w", err)
		}
		return nodeutils.LoadImageArchive(node, archive)
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
		_ = writer.CloseWithError(err) // nil ends the stream with io.EOF
		saved <- err
	}()
	err := nodeutils.LoadImageArchive(node, reader)
	_ = reader.Close() // ends save if the node has not read everything
	if err := <-saved; err != nil {
		return fmt.Errorf("neither a file nor an image of the engine: docker save: %w", err)
	}
	return err
}

// logs writes the logs that kind collects, and the private engine's log if it
// exists.
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
	a.logf("wrote the logs to %s", dir)
	return nil
}

// decompressed returns the content of an archive, which may be compressed by
// gzip as those of a release are: the node's containerd takes it uncompressed.
func decompressed(file io.Reader) (io.Reader, error) {
	buffered := bufio.NewReader(file)
	if magic, _ := buffered.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return buffered, nil
	}
	return gzip.NewReader(buffered)
}
