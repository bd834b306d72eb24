// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// maxDocument bounds a document of the seed, maxParts the parts of one.
	maxDocument = 1 << 20
	maxParts    = 64
	// defaultUser is the distribution's account.
	defaultUser = "debian"
)

// seed is the documents that cloud-init fetches.
type seed struct{ metaData, userData, vendorData string }

// cloudConfig is the part of a cloud-config that determines what cloud-init sends.
type cloudConfig struct {
	Hostname  string      `yaml:"hostname"`
	Users     []yaml.Node `yaml:"users"`
	SSHKeys   []string    `yaml:"ssh_authorized_keys"`
	PhoneHome struct {
		URL   string    `yaml:"url"`
		Post  yaml.Node `yaml:"post"`
		Tries int       `yaml:"tries"`
	} `yaml:"phone_home"`
	Reporting map[string]struct {
		Type     string `yaml:"type"`
		Endpoint string `yaml:"endpoint"`
	} `yaml:"reporting"`
}

// posted is what phone_home posts if "post" is "all".
var posted = []string{"pub_key_rsa", "pub_key_ecdsa", "pub_key_ed25519", "instance_id", "hostname", "fqdn"}

// parse returns the instance that the documents describe. User-data takes precedence
// over vendor-data.
func (d seed) parse() (*instance, error) {
	var meta struct {
		ID       string `yaml:"instance-id"`
		Hostname string `yaml:"local-hostname"`
	}
	if err := yaml.Unmarshal([]byte(d.metaData), &meta); err != nil {
		return nil, fmt.Errorf("parsing the meta-data: %w", err)
	}
	if meta.ID == "" {
		return nil, errors.New("the meta-data has no instance-id")
	}
	i := &instance{ID: meta.ID, Hostname: meta.Hostname}
	for _, text := range []string{d.vendorData, d.userData} {
		replaced := false
		for _, part := range configs(text) {
			var c cloudConfig
			var keys map[string]yaml.Node
			// cloud-init warns of a part that it cannot parse, and continues.
			if yaml.Unmarshal([]byte(part), &c) != nil || yaml.Unmarshal([]byte(part), &keys) != nil {
				continue
			}
			for key := range keys {
				if !slices.Contains(i.Keys, key) {
					i.Keys = append(i.Keys, key)
				}
			}
			if len(c.Users) > 0 && !replaced {
				i.Accounts, replaced = nil, true
			}
			i.apply(c)
		}
	}
	slices.Sort(i.Keys)
	return i, nil
}

func (i *instance) apply(c cloudConfig) {
	if c.Hostname != "" {
		i.Hostname = c.Hostname
	}
	for _, node := range c.Users {
		if a, ok := accountOf(node); ok {
			i.Accounts = append(i.Accounts, a)
		}
	}
	if len(c.SSHKeys) > 0 {
		i.Accounts = append(i.Accounts, account{defaultUser, c.SSHKeys})
	}
	if c.PhoneHome.URL != "" {
		i.PhoneHome = phoneHome{URL: c.PhoneHome.URL, Post: posted, Tries: c.PhoneHome.Tries}
		var post []string
		if c.PhoneHome.Post.Kind == yaml.SequenceNode && c.PhoneHome.Post.Decode(&post) == nil {
			i.PhoneHome.Post = post
		}
	}
	var names []string
	for name := range c.Reporting {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if r := c.Reporting[name]; r.Type == "webhook" {
			i.Endpoint = r.Endpoint
		}
	}
}

// accountOf returns an entry of the list of users.
func accountOf(node yaml.Node) (account, bool) {
	var user struct {
		Name string   `yaml:"name"`
		Keys []string `yaml:"ssh_authorized_keys"`
	}
	switch node.Kind {
	case yaml.ScalarNode:
		user.Name = node.Value
	case yaml.MappingNode:
		if node.Decode(&user) != nil {
			return account{}, false
		}
	}
	if user.Name == "default" {
		user.Name = defaultUser
	}
	return account{user.Name, user.Keys}, user.Name != ""
}

// configs returns the cloud-config parts of a document.
func configs(text string) []string {
	if strings.HasPrefix(text, "#cloud-config") {
		return []string{text}
	}
	if !strings.HasPrefix(text, "Content-Type:") && !strings.HasPrefix(text, "MIME-Version:") {
		return nil
	}
	message, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		return nil
	}
	kind, params, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		return nil
	}
	var found []string
	parts := multipart.NewReader(message.Body, params["boundary"])
	for range maxParts {
		part, err := parts.NextPart()
		if err != nil {
			return found
		}
		kind, _, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
		if err != nil || kind != "text/cloud-config" && kind != "text/x-include-url" && kind != "text/plain" {
			continue
		}
		var body io.Reader = part
		if strings.EqualFold(part.Header.Get("Content-Transfer-Encoding"), "base64") {
			body = base64.NewDecoder(base64.StdEncoding, part)
		}
		raw, err := io.ReadAll(io.LimitReader(body, maxDocument))
		if err == nil && strings.HasPrefix(string(raw), "#cloud-config") {
			found = append(found, string(raw))
		}
	}
	return found
}
