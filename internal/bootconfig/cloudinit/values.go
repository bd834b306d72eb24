// SPDX-License-Identifier: Apache-2.0

package cloudinit

// Values is the data of one machine's templates. A template that uses a missing
// parameter fails; `index .Parameters "name" | default "x"` reads an optional
// one.
type Values struct {
	// Name is the name of the Kubernetes object, Hostname that of the machine.
	Name     string
	Hostname string
	// InstanceID is cloud-init's instance-id.
	InstanceID string
	// Architecture is "x86_64" or "aarch64".
	Architecture string

	MAC          string
	Address      string
	PrefixLength int
	// Gateway and DNS are empty if the lab has none.
	Gateway string
	DNS     []string
	Domain  string
	// MTU is 0 to keep the driver's default.
	MTU int

	// ServerAddress is the provisioning server's address, ServerURL its
	// "http://ADDRESS/".
	ServerAddress string
	ServerURL     string
	// BaseURL is the base URL of the machine's data, with a trailing slash; it
	// contains the machine's secret.
	BaseURL string

	// SSHUser is the account that kubectl-lab logs in to; empty for none.
	SSHUser           string
	SSHAuthorizedKeys []string
	// Parameters are the target's template parameters.
	Parameters map[string]string
}

// SeedURL returns the seed URL of the NoCloud data source.
func (v Values) SeedURL() string { return v.BaseURL + "ci/" }

// ReportURL returns the URL to which cloud-init posts the results of its stages
// and modules.
func (v Values) ReportURL() string { return v.BaseURL + "cloud-init" }

// PhoneHomeURL returns the URL to which cloud-init reports at the end of its
// first run.
func (v Values) PhoneHomeURL() string { return v.BaseURL + "phone-home" }
