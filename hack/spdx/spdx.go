// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// component is a component of the image.
type component struct {
	name, version string
	// purl is its package URL (https://github.com/package-url/purl-spec).
	purl string
}

// debianPackages returns the packages that dpkg's status file lists as installed
// (dpkg(1), deb822(5)).
func debianPackages(status io.Reader) ([]component, error) {
	var found []component
	fields := map[string]string{}
	end := func() {
		if strings.HasSuffix(fields["Status"], " installed") {
			name := fields["Package"]
			version := fields["Version"]
			arch := fields["Architecture"]
			found = append(found, component{name, version,
				"pkg:deb/debian/" + name + "@" + url.PathEscape(version) + "?arch=" + url.QueryEscape(arch)})
		}
		clear(fields)
	}
	lines := bufio.NewScanner(status)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			end()
			continue
		}
		if key, value, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(line, " ") {
			fields[key] = value
		}
	}
	end()
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errors.New("the status file lists no installed packages")
	}
	return found, nil
}

// goModules returns a Go program and the modules compiled into it.
func goModules(program string) ([]component, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("reading the build information of %s: %w", program, err)
	}
	golang := func(path, version string) component {
		return component{path, version, "pkg:golang/" + path + "@" + url.PathEscape(version)}
	}
	found := []component{
		{filepath.Base(program), info.Main.Version, "pkg:golang/" + info.Path},
		golang("stdlib", strings.TrimPrefix(info.GoVersion, "go")),
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		found = append(found, golang(m.Path, m.Version))
	}
	return found, nil
}

// document contains the SPDX 2.3 fields that are filled in, named by its JSON
// schema.
type document struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID       string        `json:"SPDXID"`
	Name     string        `json:"name"`
	Version  string        `json:"versionInfo,omitempty"`
	Location string        `json:"downloadLocation"`
	Refs     []externalRef `json:"externalRefs,omitempty"`
}

type externalRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const (
	noAssertion = "NOASSERTION"
	documentID  = "SPDXRef-DOCUMENT"
	imageID     = "SPDXRef-image"
)

// newDocument describes an image that contains each of the components once.
func newDocument(image string, now time.Time, components []component) document {
	slices.SortFunc(components, func(a, b component) int { return strings.Compare(a.purl, b.purl) })
	components = slices.CompactFunc(components, func(a, b component) bool { return a.purl == b.purl })
	d := document{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: documentID, Name: image,
		Creation:      creation{now.UTC().Format(time.RFC3339), []string{"Tool: pxelab hack/spdx"}},
		Packages:      []spdxPackage{{ID: imageID, Name: image, Location: noAssertion}},
		Relationships: []relationship{{documentID, "DESCRIBES", imageID}},
	}
	contents := sha256.New()
	for _, c := range components {
		fmt.Fprintln(contents, c.purl)
		sum := sha256.Sum256([]byte(c.purl))
		id := "SPDXRef-" + hex.EncodeToString(sum[:8])
		d.Packages = append(d.Packages, spdxPackage{
			ID: id, Name: c.name, Version: c.version, Location: noAssertion,
			Refs: []externalRef{{"PACKAGE-MANAGER", "purl", c.purl}},
		})
		d.Relationships = append(d.Relationships, relationship{imageID, "CONTAINS", id})
	}
	// The specification requires a unique namespace per document; it is derived
	// from the contents so that equal contents have equal namespaces.
	d.Namespace = "https://pxelab.io/spdx/" + hex.EncodeToString(contents.Sum(nil))
	return d
}
