// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// config is an image configuration of the OCI image specification.
type config struct {
	Created      string        `json:"created"`
	Architecture string        `json:"architecture"`
	OS           string        `json:"os"`
	Config       runConfig     `json:"config"`
	RootFS       rootFS        `json:"rootfs"`
	History      []historyItem `json:"history"`
}

type runConfig struct {
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	Cmd        []string          `json:"Cmd,omitempty"`
	Env        []string          `json:"Env,omitempty"`
	WorkingDir string            `json:"WorkingDir,omitempty"`
	User       string            `json:"User,omitempty"`
	StopSignal string            `json:"StopSignal,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type historyItem struct {
	Created   string `json:"created"`
	CreatedBy string `json:"created_by"`
}

// manifest is an entry of manifest.json in Docker's archive format 1.2.
type manifest struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// epoch is every creation time, so that equal inputs produce equal images.
const epoch = "1970-01-01T00:00:00Z"

// layer is a tar archive on disk and its SHA-256 digest.
type layer struct{ path, digest string }

func (l layer) name() string { return l.digest + ".tar" }

// write creates the archive at path atomically.
func write(path string, images []image) (err error) {
	scratch, err := os.MkdirTemp(filepath.Dir(path), ".imagetar-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()

	layers, err := prepare(images, scratch)
	if err != nil {
		return err
	}
	whole := filepath.Join(scratch, "archive")
	if err := fill(whole, images, layers); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(whole, path)
}

// prepare archives each layer that is a directory, and computes the digest of
// each layer once.
func prepare(images []image, scratch string) (map[string]layer, error) {
	layers := map[string]layer{}
	for _, i := range images {
		for _, source := range i.Layers {
			if _, known := layers[source]; known {
				continue
			}
			archive := source
			if info, err := os.Stat(source); err != nil {
				return nil, fmt.Errorf("reading layer %s: %w", source, err)
			} else if info.IsDir() {
				archive = filepath.Join(scratch, fmt.Sprintf("layer-%d.tar", len(layers)))
				if err := archiveDir(archive, source); err != nil {
					return nil, fmt.Errorf("archiving %s: %w", source, err)
				}
			}
			digest, err := fileDigest(archive)
			if err != nil {
				return nil, fmt.Errorf("reading layer %s: %w", source, err)
			}
			layers[source] = layer{archive, digest}
		}
	}
	return layers, nil
}

func fill(path string, images []image, layers map[string]layer) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	archive := tar.NewWriter(file)
	var manifests []manifest
	written := map[string]bool{}
	for _, i := range images {
		m := manifest{RepoTags: i.Tags}
		c := configOf(i)
		for _, source := range i.Layers {
			l := layers[source]
			m.Layers = append(m.Layers, l.name())
			c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, "sha256:"+l.digest)
			c.History = append(c.History, historyItem{Created: epoch, CreatedBy: "imagetar " + filepath.Base(source)})
			if written[l.digest] {
				continue
			}
			written[l.digest] = true
			if err := addFile(archive, l.name(), l.path); err != nil {
				return err
			}
		}
		text, err := json.Marshal(c)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		m.Config = hex.EncodeToString(sum[:]) + ".json"
		// Images with equal configurations are one image with the tags of both.
		same := slices.IndexFunc(manifests, func(other manifest) bool { return other.Config == m.Config })
		if same >= 0 {
			manifests[same].RepoTags = append(manifests[same].RepoTags, m.RepoTags...)
			continue
		}
		manifests = append(manifests, m)
		if err := addBytes(archive, m.Config, text); err != nil {
			return err
		}
	}
	text, err := json.Marshal(manifests)
	if err != nil {
		return err
	}
	if err := addBytes(archive, "manifest.json", text); err != nil {
		return err
	}
	return archive.Close()
}

func configOf(i image) config {
	return config{
		Created:      epoch,
		Architecture: i.Architecture,
		OS:           "linux",
		Config: runConfig{
			Entrypoint: i.Entrypoint, Cmd: i.Cmd, Env: i.Env, WorkingDir: i.WorkingDir,
			User: i.User, StopSignal: i.StopSignal, Labels: i.Labels,
		},
		RootFS: rootFS{Type: "layers"},
	}
}

func fileDigest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func addFile(archive *tar.Writer, name, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return add(archive, &tar.Header{Name: name, Mode: 0o644, Size: info.Size()}, file)
}

func addBytes(archive *tar.Writer, name string, content []byte) error {
	return add(archive, &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}, bytes.NewReader(content))
}

func add(archive *tar.Writer, header *tar.Header, content io.Reader) error {
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(archive, content)
	return err
}

// archiveDir writes the contents of dir to a tar archive at path.
func archiveDir(path, dir string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	archive := tar.NewWriter(file)
	err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return addEntry(archive, dir, path, entry)
	})
	if err != nil {
		return err
	}
	return archive.Close()
}

func addEntry(archive *tar.Writer, dir, path string, entry os.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&os.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	// Drop owner and times, so that the archive is reproducible.
	header = &tar.Header{Typeflag: header.Typeflag, Linkname: header.Linkname, Size: header.Size, Mode: header.Mode}
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	header.Name = filepath.ToSlash(name)
	if info.IsDir() {
		header.Name += "/"
	}
	if !info.Mode().IsRegular() {
		return archive.WriteHeader(header)
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return add(archive, header, file)
}
