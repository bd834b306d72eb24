// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootapi/session"
	"github.com/pxelab/pxelab/internal/plan"
)

// ensureServed gives the server's netbootd the target's entry. It is the last step, so
// that the entry describes what the others have done.
func (r *BareMetalTargetReconciler) ensureServed(ctx context.Context, scope *targetScope) (*halt, error) {
	if scope.server == nil || v1alpha1.Paused(scope.server) {
		return nil, nil
	}
	if scope.session.State == nil && !scope.session.Connected && scope.content == nil {
		return nil, nil // netbootd may have a content to keep
	}
	if ok, err := r.readKeys(ctx, scope); err != nil || !ok {
		return nil, err // the server's reconciler creates them
	}
	in := scope.entryInput()
	files, available := r.files(in.Content)
	if !available || !scope.servable() {
		in.Content, in.Profile = nil, nil
	}
	if in.Content == nil && (scope.unchecked || scope.paused) && !scope.hasEntry() {
		return nil, nil
	}
	entry, ok := plan.Entry(in)
	if !ok {
		return nil, nil
	}
	server, uid := string(scope.server.UID), string(scope.target.UID)
	r.Host.Sessions.PutMachine(server, uid, session.Desired{Content: entry.Content, Control: entry.Control, Files: files, Texts: entry.Texts})
	if !scope.state.Phase.Alive() && !scope.session.InForce && r.Host.Sessions.ObserveMachine(server, uid).InForce {
		// netbootd had the entry from an earlier manager: nothing changes there that
		// would wake a target that waits for it.
		r.external.enqueue(uid)
	}
	return nil, nil
}

// servable reports whether the profile as it is may be served to the target. netbootd
// keeps what it has while the templates are not checked or not valid, and while the
// target is paused.
func (scope *targetScope) servable() bool {
	bad := scope.unfit.Reason == v1alpha1.ReasonBadTemplate || scope.blocker.Reason == v1alpha1.ReasonBadTemplate
	return !bad && !scope.unchecked && !scope.paused
}

// hasEntry reports whether netbootd has a content of the target's current attempt.
func (scope *targetScope) hasEntry() bool { return scope.seen != nil && scope.seen.Content != "" }

// entryInput returns what the target's entry is computed from, with the server's keys if
// they were read.
func (scope *targetScope) entryInput() plan.EntryInput {
	in := plan.EntryInput{
		Target: scope.target, Profile: scope.profile, Content: scope.content, Templates: scope.templates, Seen: scope.seen,
		Network: scope.network,
	}
	if scope.state.Phase.Alive() {
		in.PowerOn = scope.state.StartedAt
	}
	if scope.keys != nil {
		in.TokenKey = scope.keys.token
		in.SSHKeys = append([]string{scope.keys.ssh}, scope.server.Spec.SSHAuthorizedKeys...)
	}
	return in
}

// readKeys reads the keys of the target's server unless they were read, and reports whether
// there are any.
func (r *BareMetalTargetReconciler) readKeys(ctx context.Context, scope *targetScope) (bool, error) {
	if scope.keys == nil {
		keys, ok, err := serverKeysOf(ctx, r.Client, scope.server)
		if err != nil || !ok {
			return false, err
		}
		scope.keys = &keys
	}
	return true, nil
}

// files returns the paths of a profile's files, by digest. available is false if the
// store lacks one.
func (r *BareMetalTargetReconciler) files(c *plan.Content) (paths map[string]string, available bool) {
	if c == nil {
		return nil, true
	}
	paths = map[string]string{}
	for _, blob := range []netbootapi.Blob{c.Kernel, c.Initrd, c.Overlay, c.Image} {
		path, ok := r.Host.Content.Path(blob.Digest)
		if !ok {
			return nil, false
		}
		paths[blob.Digest] = path
	}
	return paths, true
}

// serverKeys are what the entries of a server's targets need of its Secrets.
type serverKeys struct {
	token []byte
	ssh   string // authorized_keys form
}

// serverKeysOf reads a server's keys; ok is false if they are not there or not usable,
// which the server's reconciler changes or reports.
func serverKeysOf(ctx context.Context, c client.Client, s *v1alpha1.ProvisioningServer) (keys serverKeys, ok bool, err error) {
	agent, err := ownSecret(ctx, c, s, AgentSecret(s.Name))
	if err != nil || agent == nil {
		return serverKeys{}, false, err
	}
	login, err := ownSecret(ctx, c, s, v1alpha1.SSHSecretName(s.Name))
	if err != nil || login == nil {
		return serverKeys{}, false, err
	}
	signer, err := ssh.ParsePrivateKey(login[corev1.SSHAuthPrivateKey])
	if err != nil || len(agent[tokenKey]) < minTokenKey {
		return serverKeys{}, false, nil
	}
	return serverKeys{token: agent[tokenKey], ssh: authorizedKey(signer)}, true, nil
}

// authorizedKey returns a login key's public half in authorized_keys form.
func authorizedKey(signer ssh.Signer) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " pxelab"
}

// ownSecret returns the data of a server's Secret; nil if there is none that is its own.
func ownSecret(ctx context.Context, c client.Client, s *v1alpha1.ProvisioningServer, name string) (map[string][]byte, error) {
	secret := &corev1.Secret{}
	err := c.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: name}, secret)
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("reading secret %s: %w", name, err)
	}
	if err != nil || !metav1.IsControlledBy(secret, s) {
		return nil, nil
	}
	return secret.Data, nil
}
