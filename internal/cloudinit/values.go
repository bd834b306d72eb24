// SPDX-License-Identifier: Apache-2.0

// Package cloudinit renders what cloud-init reads: user-data, meta-data,
// vendor-data and network-config of an installed machine, and the seed of the
// provisioning VM itself. It is pure: templates see the Values they are given
// and nothing else, no files, no environment, no network, no clock, and can
// neither run for ever nor grow without bound.
package cloudinit

// Values is what the templates of one machine see. A template that names a
// parameter that is not there fails; `index .Parameters "name" | default "x"`
// asks for one that may be absent.
type Values struct {
	// Name of the Kubernetes object, Hostname of the machine.
	Name     string
	Hostname string
	// InstanceID is cloud-init's instance-id.
	InstanceID string
	// Architecture is "x86_64" or "aarch64".
	Architecture string

	MAC          string
	Address      string
	PrefixLength int
	// Gateway and DNS are empty where the lab has none.
	Gateway string
	DNS     []string
	Domain  string
	// MTU is 0 where the lab leaves it to the machine.
	MTU int

	// ServerAddress is the provisioning server's address, ServerURL its
	// "http://ADDRESS/".
	ServerAddress string
	ServerURL     string
	// BaseURL is where the machine's own data lies, with a trailing slash; it
	// holds the machine's secret.
	BaseURL string

	// SSHUser is the account that kubectl-lab logs in to; empty for none.
	SSHUser           string
	SSHAuthorizedKeys []string
	// Parameters are the target's own.
	Parameters map[string]string
}

// SeedURL is what the NoCloud data source is pointed to.
func (v Values) SeedURL() string { return v.BaseURL + "ci/" }

// ReportURL is where cloud-init posts what its stages and modules come to.
func (v Values) ReportURL() string { return v.BaseURL + "cloud-init" }

// PhoneHomeURL is where cloud-init reports to at the end of its first run.
func (v Values) PhoneHomeURL() string { return v.BaseURL + "phone-home" }
