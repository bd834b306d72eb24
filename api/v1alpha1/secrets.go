// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// SSHHostKeysKey is the key of a server's SSH Secret that contains the host keys of
// the provisioning VM, one public key per line.
const SSHHostKeysKey = "ssh-hostkeys"

// SecretLabel marks the Secrets that the controller reads; it does not see others. A
// Secret of a user is served to machines, as a template, only if its owner gave it
// this label: a user who may write BootProfiles need not be allowed to read Secrets.
const SecretLabel = "pxelab.io/secret"

// The values of SecretLabel.
const (
	// SecretTemplate is the value for Secrets to which a BootProfile may refer.
	SecretTemplate = "template"
	// SecretServer is the value of the Secrets that the controller creates for a
	// ProvisioningServer.
	SecretServer = "server"
)

// SSHSecretName returns the name of the Secret, in the namespace of the
// ProvisioningServer with the given name, that contains the private key for SSH
// logins to the server and its targets (type kubernetes.io/ssh-auth).
func SSHSecretName(server string) string { return server + "-ssh" }
