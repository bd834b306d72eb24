// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// checked is a validated Source.
type checked struct {
	Source
	sum     checksum // set if Checksum is a checksum
	sumsURL string   // set if Checksum is the URL of a checksum file
	sums    string   // set if Checksum is a checksum file in the images folder
	name    string   // last element of the URL or path
}

// check validates a source, without accessing files or the network.
func (s Source) check() (*checked, error) {
	c := &checked{Source: s}
	switch {
	case s.URL == "" && s.Path == "":
		return nil, failf(ReasonInvalid, nil, "neither url nor path is set; set one of them")
	case s.URL != "" && s.Path != "":
		return nil, failf(ReasonInvalid, nil, "both url and path are set; set only one of them")
	case s.URL != "":
		u, err := parseURL(s.URL)
		if err != nil {
			return nil, err
		}
		c.name = path.Base(u.Path)
	default:
		if !filepath.IsLocal(filepath.FromSlash(s.Path)) || path.Clean(s.Path) == "." {
			return nil, failf(ReasonInvalid, nil,
				"path %q is not a file below the images folder; set it relative to that folder", s.Path)
		}
		c.name = path.Base(path.Clean(s.Path))
	}
	if err := knownFormat(s.Format); err != nil {
		return nil, err
	}
	return c, c.checkChecksum()
}

func (c *checked) checkChecksum() error {
	v := c.Checksum
	switch {
	case v == "":
		return failf(ReasonInvalid, nil, "%s has no checksum; set sha256:<hex>, sha512:<hex> or the location of a SHA256SUMS file", c)
	case hasAlgorithm(v):
		sum, err := parseChecksum(v)
		if err != nil {
			return err
		}
		c.sum = sum
	case strings.HasPrefix(v, "http://"), strings.HasPrefix(v, "https://"):
		if _, err := parseURL(v); err != nil {
			return err
		}
		c.sumsURL = v
	case refusedChecksum(v) != "":
		return failf(ReasonInvalid, nil, "checksum %q of %s %s; set sha256:<hex> or sha512:<hex>", v, c, refusedChecksum(v))
	case c.Path != "" && filepath.IsLocal(filepath.FromSlash(v)):
		c.sums = v
	default:
		return failf(ReasonInvalid, nil,
			"checksum %q of %s is neither sha256:<hex> nor sha512:<hex> nor the location of a SHA256SUMS file", v, c)
	}
	return nil
}

// hasAlgorithm reports whether a text is meant as a checksum with an accepted algorithm.
func hasAlgorithm(v string) bool {
	algo, _, found := strings.Cut(v, ":")
	return found && slices.Contains(accepted, strings.ToLower(algo))
}

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, failf(ReasonInvalid, err, "%q is not a URL: %v", s, err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, failf(ReasonInvalid, nil, "%q is not an http or https URL with a host", u.Redacted())
	}
	if u.Path == "" || strings.HasSuffix(u.Path, "/") {
		return nil, failf(ReasonInvalid, nil, "%q is the URL of a folder, not of a file", u.Redacted())
	}
	return u, nil
}

// redact hides the password in a URL.
func redact(s string) string {
	if u, err := url.Parse(s); err == nil {
		return u.Redacted()
	}
	return s
}

// key identifies the source in the store by its location and checksum.
func (s Source) key() string { return keyOf(s.URL, s.Path, s.Checksum) }

func keyOf(parts ...string) string {
	b, err := json.Marshal(parts)
	if err != nil {
		panic(err) // strings always marshal
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// entryNames returns the names under which a checksum file may list the source,
// in order of preference: the path relative to the checksum file, then the bare
// file name.
func (c *checked) entryNames() []string {
	file, sums := c.Path, c.sums
	if c.sumsURL != "" && c.URL != "" {
		a, _ := url.Parse(c.URL)
		b, _ := url.Parse(c.sumsURL)
		if a.Host != b.Host {
			return []string{c.name}
		}
		file, sums = a.Path, b.Path
	} else if c.sums == "" {
		return []string{c.name}
	}
	dir := path.Dir(path.Clean(sums)) + "/"
	file = path.Clean(file)
	if dir == "./" {
		return []string{file, c.name}
	}
	if rel, ok := strings.CutPrefix(file, dir); ok {
		return []string{rel, c.name}
	}
	return []string{c.name}
}
