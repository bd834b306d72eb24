// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Keys of a server's Secrets: the key from which machine tokens are derived, and the
// VM's SSH host key. v1alpha1.SSHHostKeysKey is the key of its public half.
const (
	tokenKey = "token-key"
	hostKey  = "ssh-hostkey"
)

// minTokenKey is the least size of the token key in bytes.
const minTokenKey = 16

// AgentSecret returns the name of the Secret with the credentials of manager and
// netbootd.
func AgentSecret(server string) string { return server + "-agent" }

// serverSecrets is the content of a server's Secrets.
type serverSecrets struct {
	trust    netbootapi.Trust
	tokenKey []byte
	sshKey   string // authorized_keys form
	hostKey  []byte // the VM's SSH host key, private
}

// errStaleCache means that a Secret that exists is not in the cache yet.
var errStaleCache = errors.New("the secret is not in the cache yet")

// ensureSecrets reads the server's Secrets and creates those that do not exist.
func (r *ProvisioningServerReconciler) ensureSecrets(ctx context.Context, scope *serverScope) (*halt, error) {
	data, err := r.ensureSecret(ctx, scope.server, AgentSecret(scope.server.Name), corev1.SecretTypeOpaque, func() (map[string][]byte, error) {
		credentials, err := netbootapi.NewCredentials(r.Host.Now())
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
	if errors.Is(err, errStaleCache) {
		return scope.keepStatus(staleRetry), nil
	}
	if err != nil {
		return nil, err
	}
	if scope.secrets.trust, err = netbootapi.DecodeTrust(data); err != nil {
		return nil, fmt.Errorf("secret %s: %w; delete it to have it regenerated", AgentSecret(scope.server.Name), err)
	}
	host, err := ssh.ParsePrivateKey(data[hostKey])
	if err != nil {
		return nil, fmt.Errorf("secret %s, key %s: %w; delete it to have it regenerated", AgentSecret(scope.server.Name), hostKey, err)
	}
	scope.secrets.hostKey = data[hostKey]
	if scope.secrets.tokenKey = data[tokenKey]; len(scope.secrets.tokenKey) < minTokenKey {
		return nil, fmt.Errorf("secret %s lacks %s; delete it to have it regenerated", AgentSecret(scope.server.Name), tokenKey)
	}
	data, err = r.ensureSecret(ctx, scope.server, v1alpha1.SSHSecretName(scope.server.Name), corev1.SecretTypeSSHAuth, func() (map[string][]byte, error) {
		private, err := newSSHKey()
		return map[string][]byte{
			corev1.SSHAuthPrivateKey: private,
			v1alpha1.SSHHostKeysKey:  ssh.MarshalAuthorizedKey(host.PublicKey()),
		}, err
	})
	if errors.Is(err, errStaleCache) {
		return scope.keepStatus(staleRetry), nil
	}
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(data[corev1.SSHAuthPrivateKey])
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w; delete it to have it regenerated", v1alpha1.SSHSecretName(scope.server.Name), err)
	}
	scope.secrets.sshKey = authorizedKey(signer)
	return nil, nil
}

// newSSHKey generates an Ed25519 key in OpenSSH's format.
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

// ensureSecret returns the data of a Secret of the server, which it creates if it does
// not exist.
func (r *ProvisioningServerReconciler) ensureSecret(
	ctx context.Context, s *v1alpha1.ProvisioningServer, name string, kind corev1.SecretType, generate func() (map[string][]byte, error),
) (map[string][]byte, error) {
	secret := &corev1.Secret{}
	err := r.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: name}, secret)
	if err == nil {
		if !metav1.IsControlledBy(secret, s) {
			return nil, foreignSecret(name)
		}
		return secret.Data, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("reading secret %s: %w", name, err)
	}
	data, err := generate()
	if err != nil {
		return nil, fmt.Errorf("creating secret %s: %w", name, err)
	}
	secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: name, Labels: serverLabel}, Type: kind, Data: data}
	if err := controllerutil.SetControllerReference(s, secret, r.Scheme()); err != nil {
		return nil, err
	}
	err = r.Create(ctx, secret)
	if apierrors.IsAlreadyExists(err) {
		return nil, r.markSecret(ctx, s, name)
	}
	if err != nil {
		return nil, fmt.Errorf("creating secret %s: %w", name, err)
	}
	ctrl.LoggerFrom(ctx).Info("Created secret", "secret", name)
	return data, nil
}

// serverLabel marks the Secrets of servers, so that the cache has them.
var serverLabel = map[string]string{v1alpha1.SecretLabel: v1alpha1.SecretServer}

// markSecret gives a Secret of the server that the cache lacks the label that puts it
// there, and returns errStaleCache; or an error if the Secret is not the server's.
func (r *ProvisioningServerReconciler) markSecret(ctx context.Context, s *v1alpha1.ProvisioningServer, name string) error {
	list := &corev1.SecretList{}
	err := r.Live.List(ctx, list, client.InNamespace(s.Namespace), client.MatchingFields{"metadata.name": name})
	if err != nil {
		return fmt.Errorf("reading secret %s: %w", name, err)
	}
	if len(list.Items) == 0 {
		return errStaleCache // it has just been deleted
	}
	secret := &list.Items[0]
	if !metav1.IsControlledBy(secret, s) {
		return foreignSecret(name)
	}
	if secret.Labels[v1alpha1.SecretLabel] != v1alpha1.SecretServer {
		base := secret.DeepCopy()
		secret.Labels = maps.Clone(secret.Labels)
		if secret.Labels == nil {
			secret.Labels = map[string]string{}
		}
		maps.Copy(secret.Labels, serverLabel)
		if err := r.Patch(ctx, secret, client.MergeFrom(base)); err != nil {
			return fmt.Errorf("marking secret %s: %w", name, err)
		}
	}
	return errStaleCache
}

func foreignSecret(name string) error {
	return fmt.Errorf("secret %s exists and is not controlled by this server; rename or delete it", name)
}
