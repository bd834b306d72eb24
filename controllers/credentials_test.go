// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

const day = 24 * time.Hour

// trust is what the server's Secret holds.
func (l *lab) trust(server string) netbootapi.Trust {
	l.t.Helper()
	secret := &corev1.Secret{}
	l.must(l.client.Get(l.ctx, l.key(controllers.AgentSecret(server)), secret))
	trust, err := netbootapi.DecodeTrust(secret.Data)
	l.must(err)
	return trust
}

// waitTrust reconciles the server until ok accepts its credentials.
func (l *lab) waitTrust(s *v1alpha1.ProvisioningServer, what string, ok func(netbootapi.Trust) bool) netbootapi.Trust {
	l.t.Helper()
	var t netbootapi.Trust
	l.eventually(func() string {
		l.set.ServerObserved(string(s.UID))
		if t = l.trust(s.Name); ok(t) {
			return ""
		}
		return what
	})
	return t
}

// TestServerRenewsCredentials lets years pass.
func TestServerRenewsCredentials(t *testing.T) {
	l := newLab(t)
	l.create(newServer("lab"))
	s := l.waitReadyServer("lab")
	uid := string(s.UID)
	first := l.trust("lab").Current

	// Due: renewed while the machine runs, which is not restarted.
	l.sleep(300 * day)
	second := l.waitTrust(s, "the credentials are not renewed", func(trust netbootapi.Trust) bool {
		return trust.Next == nil && trust.Current.Server().Digest() != first.Server().Digest()
	}).Current
	l.eventually(func() string {
		if state := l.machines.netbootd(uid).State().State; state.Credentials != second.Server().Digest() {
			return "netbootd serves with " + state.Credentials
		}
		return ""
	})
	l.waitReadyServer("lab")
	l.checkStarts(s, 1)

	// The manager dies between making the successors and netbootd's taking them.
	l.machines.netbootd(uid).RefuseRenewal(errors.New("no space left"))
	l.sleep(300 * day)
	l.waitTrust(s, "there are no successors", func(trust netbootapi.Trust) bool { return trust.Next != nil })
	l.waitCondition(s, v1alpha1.ConditionAgentConnected, metav1.ConditionTrue, v1alpha1.ReasonConnected, "could not be renewed")
	l.restart()
	l.machines.netbootd(uid).RefuseRenewal(nil)
	l.restart() // without a wait for the next attempt
	third := l.waitTrust(s, "the successors are not in force", func(trust netbootapi.Trust) bool {
		return trust.Next == nil && trust.Current.Server().Digest() != second.Server().Digest()
	}).Current
	l.checkStarts(s, 1)

	// No manager ran until long after the expiry: the machine is restarted.
	l.stopManager()
	l.sleep(1000 * day)
	l.start()
	l.waitTrust(s, "the credentials that have ended are not replaced", func(trust netbootapi.Trust) bool {
		return trust.Next == nil && trust.Current.Server().Digest() != third.Server().Digest()
	})
	l.eventually(func() string {
		if l.machines.starts(uid) == 2 {
			return ""
		}
		return "the machine is not started with new credentials"
	})
	l.waitCondition(s, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
}
