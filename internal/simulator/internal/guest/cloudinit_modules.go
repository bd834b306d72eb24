// SPDX-License-Identifier: Apache-2.0

package guest

// frequency is how often a module runs.
type frequency string

const (
	always      frequency = "always"
	perInstance frequency = "once-per-instance"
	once        frequency = "once"
)

// ciModule is one of cloud-init's modules. A module with keys runs only if the
// configuration has one of them.
type ciModule struct {
	name string
	frequency
	keys []string
}

// ciStage is a stage after the data source was found.
type ciStage struct {
	name, description string
	modules           []ciModule
}

// Modules with an effect on what a machine sends.
const (
	moduleSSH         = "ssh"
	moduleScriptsUser = "scripts-user"
	modulePhoneHome   = "phone-home"
)

// ciStages are the stages and modules of Debian's /etc/cloud/cloud.cfg. A module that
// always runs reports even if it has nothing to do.
var ciStages = []ciStage{
	{stageNetwork, "searching for network datasources", []ciModule{
		{"seed_random", perInstance, nil},
		{"bootcmd", always, []string{"bootcmd"}},
		{"write-files", perInstance, []string{"write_files"}},
		{"growpart", always, nil},
		{"resizefs", always, nil},
		{"disk_setup", perInstance, []string{"disk_setup", "fs_setup"}},
		{"mounts", perInstance, nil},
		{"set_hostname", perInstance, nil},
		{"update_hostname", always, nil},
		{"update_etc_hosts", always, []string{"manage_etc_hosts"}},
		{"ca-certs", perInstance, []string{"ca_certs", "ca-certs"}},
		{"rsyslog", perInstance, []string{"rsyslog"}},
		{"users-groups", perInstance, nil},
		{moduleSSH, perInstance, nil},
	}},
	{"modules-config", "running modules for config", []ciModule{
		{"snap", perInstance, []string{"snap"}},
		{"ssh-import-id", perInstance, nil},
		{"keyboard", perInstance, []string{"keyboard"}},
		{"locale", perInstance, nil},
		{"set-passwords", perInstance, nil},
		{"grub-dpkg", perInstance, []string{"grub_dpkg", "grub-dpkg"}},
		{"apt-pipelining", perInstance, []string{"apt_pipelining"}},
		{"apt-configure", perInstance, nil},
		{"ntp", perInstance, []string{"ntp"}},
		{"timezone", perInstance, []string{"timezone"}},
		{"disable-ec2-metadata", always, []string{"disable_ec2_metadata"}},
		{"runcmd", perInstance, []string{"runcmd"}},
		{"byobu", perInstance, nil},
	}},
	{"modules-final", "running modules for final", []ciModule{
		{"package-update-upgrade-install", perInstance, []string{
			"apt_update", "package_update", "apt_upgrade", "package_upgrade", "packages",
		}},
		{"fan", perInstance, []string{"fan"}},
		{"landscape", perInstance, []string{"landscape"}},
		{"lxd", perInstance, []string{"lxd"}},
		{"write-files-deferred", perInstance, []string{"write_files"}},
		{"puppet", perInstance, []string{"puppet"}},
		{"chef", always, []string{"chef"}},
		{"mcollective", perInstance, []string{"mcollective"}},
		{"salt-minion", perInstance, []string{"salt_minion"}},
		{"reset_rmc", perInstance, nil},
		{"scripts-vendor", perInstance, nil},
		{"scripts-per-once", once, nil},
		{"scripts-per-boot", always, nil},
		{"scripts-per-instance", perInstance, nil},
		{moduleScriptsUser, perInstance, nil},
		{"ssh-authkey-fingerprints", perInstance, nil},
		{"keys-to-console", perInstance, nil},
		{"install-hotplug", perInstance, nil},
		{modulePhoneHome, perInstance, []string{"phone_home"}},
		{"final-message", always, nil},
		{"power-state-change", perInstance, []string{"power_state"}},
	}},
}
