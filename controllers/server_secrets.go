// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
)

// Keys of a server's Secrets: what machine tokens are made from, the VM's SSH
// host key, and its public half for who logs in.
const (
	tokenKey = "token-key"
	hostKey  = "ssh-hostkey"
	hostKeys = "ssh-hostkeys"
)

// AgentSecret and SSHSecret name the Secrets of a server: what netbootd and the
// manager trust each other by, and the key that "kubectl lab ssh" uses.
func AgentSecret(server string) string { return server + "-agent" }

// SSHSecret is described at AgentSecret.
func SSHSecret(server string) string { return server + "-ssh" }

// serverSecrets is what the Secrets of a server hold.
type serverSecrets struct {
	trust    agent.Trust
	tokenKey []byte
	sshKey   string // authorized_keys form
	hostKey  []byte // the VM's SSH host key, private
}

// errLagging says that the cache does not show yet what was made.
var errLagging = errors.New("made a moment ago")

// ensureSecrets makes the server's Secrets, once.
func (r *ProvisioningServerReconciler) ensureSecrets(ctx context.Context, w *serverWork) (bool, time.Duration, error) {
	data, err := r.ensureSecret(ctx, w.server, AgentSecret(w.server.Name), corev1.SecretTypeOpaque, func() (map[string][]byte, error) {
		credentials, err := agent.NewCredentials(r.Host.Now())
		if err != nil {
			return nil, err
		}
		data := credentials.Encode()
		data[tokenKey] = make([]byte, 32)
		if _, err := rand.Read(data[tokenKey]); err != nil {
			return nil, err
		}
		data[hostKey], err = newSSHKey()
		return data, err
	})
	if errors.Is(err, errLagging) {
		return false, staleRetry, nil
	}
	if err != nil {
		return false, 0, err
	}
	if w.secrets.trust, err = agent.DecodeTrust(data); err != nil {
		return false, 0, fmt.Errorf("secret %s: %w; delete it to have it made anew", AgentSecret(w.server.Name), err)
	}
	host, err := ssh.ParsePrivateKey(data[hostKey])
	if err != nil {
		return false, 0, fmt.Errorf("secret %s, key %s: %w; delete it to have it made anew", AgentSecret(w.server.Name), hostKey, err)
	}
	w.secrets.hostKey = data[hostKey]
	if w.secrets.tokenKey = data[tokenKey]; len(w.secrets.tokenKey) < 16 {
		return false, 0, fmt.Errorf("secret %s lacks %s; delete it to have it made anew", AgentSecret(w.server.Name), tokenKey)
	}
	data, err = r.ensureSecret(ctx, w.server, SSHSecret(w.server.Name), corev1.SecretTypeSSHAuth, func() (map[string][]byte, error) {
		private, err := newSSHKey()
		return map[string][]byte{
			corev1.SSHAuthPrivateKey: private,
			hostKeys:                 ssh.MarshalAuthorizedKey(host.PublicKey()),
		}, err
	})
	if errors.Is(err, errLagging) {
		return false, staleRetry, nil
	}
	if err != nil {
		return false, 0, err
	}
	signer, err := ssh.ParsePrivateKey(data[corev1.SSHAuthPrivateKey])
	if err != nil {
		return false, 0, fmt.Errorf("secret %s: %w; delete it to have it made anew", SSHSecret(w.server.Name), err)
	}
	w.secrets.sshKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " pxelab"
	return true, 0, nil
}

// newSSHKey makes an Ed25519 key in OpenSSH's form.
func newSSHKey() ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "pxelab")
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// ensureSecret gets a Secret of the server, making it when it is not there.
func (r *ProvisioningServerReconciler) ensureSecret(ctx context.Context, s *v1alpha1.ProvisioningServer, name string, kind corev1.SecretType, generate func() (map[string][]byte, error)) (map[string][]byte, error) {
	secret := &corev1.Secret{}
	err := r.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: name}, secret)
	if err == nil {
		if !metav1.IsControlledBy(secret, s) {
			return nil, fmt.Errorf("secret %s exists and is not this server's; rename or delete it", name)
		}
		return secret.Data, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("reading secret %s: %w", name, err)
	}
	data, err := generate()
	if err != nil {
		return nil, fmt.Errorf("making secret %s: %w", name, err)
	}
	secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: name}, Type: kind, Data: data}
	if err := controllerutil.SetControllerReference(s, secret, r.Scheme()); err != nil {
		return nil, err
	}
	err = r.Create(ctx, secret)
	if apierrors.IsAlreadyExists(err) {
		return nil, errLagging
	}
	if err != nil {
		return nil, fmt.Errorf("making secret %s: %w", name, err)
	}
	return data, nil
}
