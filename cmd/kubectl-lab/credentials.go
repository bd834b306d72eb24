// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
)

// userName matches valid login names; they become part of a command line.
var userName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// login contains what is needed to log in to a machine.
type login struct {
	machine access.Ref
	// alias is the name of the host keys in known_hosts: the object's UID,
	// which no other machine ever has.
	alias    string
	user     string
	hostKeys [][]byte // in authorized_keys form, comments removed
	identity []byte   // private key in OpenSSH's format
}

// lookUp reads the login of a machine from the cluster. user may be empty.
func lookUp(ctx context.Context, c client.Client, m access.Ref, user string) (*login, error) {
	l := &login{machine: m, user: user}
	key := client.ObjectKey{Namespace: m.Namespace, Name: m.Name}
	serverName := m.Name
	var hostKeys []string
	if m.Kind == access.Target {
		var target v1alpha1.BareMetalTarget
		if err := c.Get(ctx, key, &target); err != nil {
			return nil, fmt.Errorf("looking up %s: %w", m, err)
		}
		if err := loginReady(m, &target); err != nil {
			return nil, err
		}
		serverName = target.Spec.ProvisioningServerRef.Name
		hostKeys = target.Status.SSHHostKeys
		l.alias = string(target.UID)
		l.user = firstNonEmpty(user, target.Status.SSHUser)
	} else {
		var server v1alpha1.ProvisioningServer
		if err := c.Get(ctx, key, &server); err != nil {
			return nil, fmt.Errorf("looking up %s: %w", m, err)
		}
		l.alias = string(server.UID)
		l.user = firstNonEmpty(user, "lab")
	}

	var secret corev1.Secret
	if err := c.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: v1alpha1.SSHSecretName(serverName)}, &secret); err != nil {
		return nil, fmt.Errorf("reading the lab's SSH key from the Secret %s/%s: %w",
			m.Namespace, v1alpha1.SSHSecretName(serverName), err)
	}
	l.identity = secret.Data[corev1.SSHAuthPrivateKey]
	if len(l.identity) == 0 {
		return nil, fmt.Errorf("the Secret %s/%s has no %s", m.Namespace, secret.Name, corev1.SSHAuthPrivateKey)
	}
	if m.Kind == access.Server {
		hostKeys = strings.Split(strings.TrimSpace(string(secret.Data[v1alpha1.SSHHostKeysKey])), "\n")
	}
	var err error
	if l.hostKeys, err = parseHostKeys(hostKeys); err != nil {
		return nil, fmt.Errorf("reading the host keys of %s: %w", m, err)
	}
	if !userName.MatchString(l.user) {
		return nil, fmt.Errorf("%q is not a valid user name; set one with USER@%s", l.user, m.Name)
	}
	return l, nil
}

// loginReady returns an error that explains why a target does not accept logins
// yet.
func loginReady(m access.Ref, t *v1alpha1.BareMetalTarget) error {
	if t.Status.Phase == v1alpha1.TargetReady || cloudInitFailed(t) {
		return nil
	}
	phase := firstNonEmpty(string(t.Status.Phase), "not yet reconciled by the manager")
	if t.Status.Progress != "" {
		phase += " " + t.Status.Progress
	}
	text := fmt.Sprintf("%s is not Ready: %s", m, phase)
	if t.Status.Message != "" {
		text += ": " + t.Status.Message
	}
	return errors.New(text)
}

// cloudInitFailed reports whether the target is up and only cloud-init failed, so
// that the user can log in to find out why.
func cloudInitFailed(t *v1alpha1.BareMetalTarget) bool {
	c := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionProgressing)
	return c != nil && c.Reason == v1alpha1.ReasonCloudInitFailed && len(t.Status.SSHHostKeys) > 0
}

func firstNonEmpty(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// parseHostKeys keeps only type and key of each line: the guest reported them,
// and a guest must not set the markers and options of a known_hosts file.
func parseHostKeys(lines []string) ([][]byte, error) {
	var keys [][]byte
	for _, line := range lines {
		if strings.TrimSpace(line) == "" {
			continue
		}
		key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(options) > 0 || len(rest) > 0 {
			return nil, fmt.Errorf("%q is not a host key", line)
		}
		keys = append(keys, bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
	}
	if len(keys) == 0 {
		return nil, errors.New("none are known, so the machine cannot be authenticated; use \"kubectl lab console\"")
	}
	return keys, nil
}

// files contains the paths of a login's files.
type files struct{ knownHosts, identity string }

// write writes the login's files to dir, which must be private.
func (l *login) write(dir string) (files, error) {
	f := files{knownHosts: filepath.Join(dir, "known_hosts"), identity: filepath.Join(dir, "identity")}
	var known bytes.Buffer
	for _, key := range l.hostKeys {
		fmt.Fprintf(&known, "%s %s\n", l.alias, key)
	}
	// ssh rejects a key file without a final newline.
	identity := append(bytes.TrimRight(l.identity, "\n"), '\n')
	return f, errors.Join(replaceFile(f.knownHosts, known.Bytes()), replaceFile(f.identity, identity))
}

// replaceFile replaces a file atomically, with mode 0600.
func replaceFile(path string, content []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(content)
	if err := errors.Join(err, temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

// option is one line of ssh_config.
type option struct{ key, value string }

// options returns the ssh options that override the user's configuration.
func (l *login) options(f files, proxy string) []option {
	return []option{
		{"User", l.user},
		{"ProxyCommand", proxy},
		{"HostKeyAlias", l.alias},
		{"UserKnownHostsFile", quoteConfig(f.knownHosts)},
		{"GlobalKnownHostsFile", "/dev/null"},
		{"StrictHostKeyChecking", "yes"},
		{"CheckHostIP", "no"},
		{"UpdateHostKeys", "no"},
		{"IdentityFile", quoteConfig(f.identity)},
		{"IdentitiesOnly", "yes"},
		// A machine's system is not trusted with the user's keys, screen and keyboard,
		// whatever the user's configuration has for all hosts.
		{"ForwardAgent", "no"},
		{"ForwardX11", "no"},
		// A shared connection would outlive a reinstallation.
		{"ControlPath", "none"},
	}
}

// quoteConfig quotes a file name for ssh_config.
func quoteConfig(path string) string {
	return `"` + strings.ReplaceAll(path, "%", "%%") + `"`
}

// proxyCommandLine returns the ProxyCommand, which runs this program. ssh expands
// percent signs and passes it to the user's shell.
func proxyCommandLine(executable string, cluster []string, m access.Ref) string {
	kind := "target"
	if m.Kind == access.Server {
		kind = "server"
	}
	words := append([]string{executable, "proxy"}, cluster...)
	words = append(words, "--namespace", m.Namespace, kind+"/"+m.Name)
	for i, word := range words {
		words[i] = "'" + strings.ReplaceAll(strings.ReplaceAll(word, "'", `'\''`), "%", "%%") + "'"
	}
	return strings.Join(words, " ")
}

// hostName is the machine's host name for ssh. It is never resolved.
func hostName(m access.Ref) string { return m.Name + "." + m.Namespace + ".pxelab" }
