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
	// BaseURL is the base URL of the machine's files in an iPXE template, and of its
	// cloud-init data in others, with a trailing slash. It contains a secret of the machine
	// that ends when the installer is done, or when the machine has phoned home.
	BaseURL string
	// SeedBaseURL is the base URL of the machine's cloud-init data.
	SeedBaseURL string

	// SSHUser is the account that kubectl-lab logs in to; empty for none.
	SSHUser           string
	SSHAuthorizedKeys []string
	// Parameters are the target's template parameters.
	Parameters map[string]string
}

// SeedURL returns the seed URL of the NoCloud data source.
func (v Values) SeedURL() string { return v.SeedBaseURL + "ci/" }

// ReportURL returns the URL to which cloud-init posts the results of its stages
// and modules.
func (v Values) ReportURL() string { return v.SeedBaseURL + "cloud-init" }

// PhoneHomeURL returns the URL to which cloud-init reports at the end of its
// first run.
func (v Values) PhoneHomeURL() string { return v.SeedBaseURL + "phone-home" }
