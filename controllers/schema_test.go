// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// Valid objects, as short as they can be, by kind.
var valid = map[string]string{
	"ProvisioningServer": `
spec:
  machine:
    image: {path: server.qcow2, checksum: SHA256SUMS}
`,
	"BootProfile": `
spec:
  image:
    source: {path: image.qcow2, checksum: SHA256SUMS}
    kernel: {path: kernel, checksum: SHA256SUMS}
    initrd: {path: initrd, checksum: SHA256SUMS}
`,
	"BareMetalTarget": `
spec:
  provisioningServerRef: {name: lab}
  bootProfileRef: {name: debian}
`,
}

// refused are merge patches that make a valid object one that the API server
// refuses, with words of its message. With from, the object was valid with that
// patch before: what is refused is the change.
var refused = []struct {
	kind, from, patch, message string
}{
	{"ProvisioningServer", "", `{metadata: {name: ` + strings.Repeat("a", 64) + `}}`, "name must be at most 63 characters"},
	{"ProvisioningServer", "", `{spec: {machine: {memory: 256Mi}}}`, "memory must be at least 512Mi"},
	{"ProvisioningServer", "", `{spec: {machine: {memory: 536870911}}}`, "memory must be at least 512Mi"},
	{"ProvisioningServer", "", `{spec: {machine: {cpus: 0}}}`, "greater than or equal to 1"},
	{"ProvisioningServer", "", `{spec: {machine: {architecture: riscv64}}}`, "Unsupported value"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {format: vmdk}}}}`, "Unsupported value"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {url: "http://example.com/i"}}}}`, "set exactly one of url and path"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {path: null}}}}`, "set exactly one of url and path"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {path: null, url: "ftp://example.com/i"}}}}`, "should match"},
	{
		"ProvisioningServer", "", `{spec: {machine: {image: {path: /etc/shadow}}}}`,
		"path must be relative to the lab's image folder and must not contain ..",
	},
	{
		"ProvisioningServer", "", `{spec: {machine: {image: {path: a/../../b}}}}`,
		"path must be relative to the lab's image folder and must not contain ..",
	},
	{"ProvisioningServer", "", `{spec: {machine: {image: {checksum: "sha256:abc"}}}}`, "checksum must be sha256:<64 hex digits>"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {checksum: "sha512:abc"}}}}`, "checksum must be sha256:<64 hex digits>"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {checksum: "SHA256:ABC"}}}}`, "checksum must be sha256:<64 hex digits>"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {checksum: "md5:d41d8cd98f00b204e9800998ecf8427e"}}}}`, "must begin with sha256: or"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {checksum: d41d8cd98f00b204e9800998ecf8427e}}}}`, "must begin with sha256: or"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {checksum: "` + strings.Repeat("aB", 32) + `"}}}}`, "must begin with sha256: or"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {checksum: null}}}}`, "Required value"},
	{"ProvisioningServer", "", `{spec: {network: {cidr: 10.88.0.0}}}`, "cidr must be an IPv4 network such as 10.88.0.0/20"},
	{"ProvisioningServer", "", `{spec: {network: {cidr: 10.88.0.300/24}}}`, "cidr must be an IPv4 network such as 10.88.0.0/20"},
	{"ProvisioningServer", "", `{spec: {network: {cidr: "fd00::/64"}}}`, "cidr must be an IPv4 network such as 10.88.0.0/20"},
	{"ProvisioningServer", "", `{spec: {network: {cidr: 10.88.0.1/24}}}`, "its host bits must be zero"},
	{"ProvisioningServer", "", `{spec: {network: {cidr: 10.88.0.0/30}}}`, "a prefix of /29 or wider"},
	{"ProvisioningServer", "", `{spec: {network: {address: 10.99.0.1}}}`, "address must be within cidr"},
	{"ProvisioningServer", "", `{spec: {network: {address: "fd00::1"}}}`, "address must be an IPv4 address"},
	{"ProvisioningServer", "", `{spec: {network: {address: server}}}`, "address must be an IPv4 address"},
	{
		"ProvisioningServer", "", `{spec: {network: {dhcp: {rangeStart: 10.99.0.1, rangeEnd: 10.88.0.9}}}}`,
		"dhcp.rangeStart must be within cidr",
	},
	{"ProvisioningServer", "", `{spec: {network: {dhcp: {rangeStart: 10.88.0.9, rangeEnd: 10.99.0.1}}}}`, "dhcp.rangeEnd must be within cidr"},
	{"ProvisioningServer", "", `{spec: {network: {dhcp: {rangeStart: 10.88.0.9}}}}`, "set both rangeStart and rangeEnd, or neither"},
	{"ProvisioningServer", "", `{spec: {network: {dhcp: {leaseTime: 59s}}}}`, "leaseTime must be between 1m and 168h"},
	{"ProvisioningServer", "", `{spec: {network: {dhcp: {leaseTime: 169h}}}}`, "leaseTime must be between 1m and 168h"},
	{"ProvisioningServer", "", `{spec: {network: {dns: [resolver]}}}`, "must be an IPv4 address"},
	{"ProvisioningServer", "", `{spec: {network: {mtu: 1000}}}`, "greater than or equal to 1280"},
	{"ProvisioningServer", "", `{spec: {network: {mtu: 9001}}}`, "less than or equal to 9000"},
	{"ProvisioningServer", "", `{spec: {network: {domain: "Lab_"}}}`, "domain must be a DNS name in lower case"},
	{"ProvisioningServer", "", `{spec: {network: {mode: Bridge}}}`, "bridge is required when mode is Bridge"},
	{"ProvisioningServer", "", `{spec: {network: {mode: Carrier}}}`, "Unsupported value"},
	{
		"ProvisioningServer", "", `{spec: {network: {mode: Bridge, bridge: b, impairment: {lossPercent: 5}}}}`,
		"impairment requires mode Userspace",
	},
	{
		"ProvisioningServer", "", `{spec: {network: {mode: Bridge, bridge: b, uncheckedFrames: [Rates]}}}`,
		"uncheckedFrames requires mode Userspace",
	},
	{"ProvisioningServer", "", `{spec: {network: {uncheckedFrames: [MACs]}}}`, "uncheckedFrames with MACs requires Addresses as well"},
	{"ProvisioningServer", "", `{spec: {network: {uncheckedFrames: [Everything]}}}`, "Unsupported value"},
	{"ProvisioningServer", "", `{spec: {network: {uncheckedFrames: [Rates, Rates]}}}`, "Duplicate value"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {lossPercent: 101}}}}`, "lossPercent must be between 0 and 100"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {lossPercent: -1}}}}`, "lossPercent must be between 0 and 100"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {lossPercent: "5%"}}}}`, "should match"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {lossPercent: "100.5"}}}}`, "should match"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {delay: 11s}}}}`, "delay must be between 0s and 10s"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {delay: -1s}}}}`, "delay must be between 0s and 10s"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {jitter: 1s}}}}`, "jitter must not exceed delay"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {delay: 1s, jitter: 2s}}}}`, "jitter must not exceed delay"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {delay: 1s, jitter: -1s}}}}`, "jitter must not be negative"},
	{
		"ProvisioningServer", "",
		`{spec: {ipxe: [{architecture: x86_64, source: {path: a, checksum: b}}, {architecture: x86_64, source: {path: a, checksum: b}}]}}`,
		"Duplicate value",
	},
	{
		"ProvisioningServer", `{}`, `{spec: {machine: {architecture: x86_64}}}`,
		"architecture cannot be changed; create another ProvisioningServer",
	},
	{"ProvisioningServer", `{}`, `{spec: {network: {mode: VMNetHost}}}`, "mode cannot be changed; create another ProvisioningServer"},
	{"ProvisioningServer", `{}`, `{spec: {network: {cidr: 10.89.0.0/20}}}`, "cidr can only be widened: keep the first address and use a shorter prefix"},
	{"ProvisioningServer", `{}`, `{spec: {network: {cidr: 10.88.0.0/24}}}`, "cidr can only be widened: keep the first address and use a shorter prefix"},
	{"ProvisioningServer", `{}`, `{spec: {network: {address: 10.88.0.2}}}`, "address cannot be changed; create another ProvisioningServer"},
	{
		"ProvisioningServer", `{spec: {network: {address: 10.88.0.2}}}`, `{spec: {network: {address: 10.88.0.3}}}`,
		"address cannot be changed; create another ProvisioningServer",
	},
	{
		"ProvisioningServer", `{spec: {network: {address: 10.88.0.2}}}`, `{spec: {network: {address: null}}}`,
		"address cannot be changed; create another ProvisioningServer",
	},
	{"ProvisioningServer", `{}`, `{spec: {network: {mtu: 1500}}}`, "mtu cannot be changed; create another ProvisioningServer"},
	{"ProvisioningServer", "", `{spec: {network: {domain: lab..internal}}}`, "domain must be a DNS name in lower case"},
	{"ProvisioningServer", "", `{spec: {network: {domain: lab-.internal}}}`, "domain must be a DNS name in lower case"},
	{"ProvisioningServer", "", `{spec: {network: {domain: internal.}}}`, "domain must be a DNS name in lower case"},
	{
		"ProvisioningServer", "", `{spec: {network: {domain: ` + strings.Repeat("a", 64) + `}}}`,
		"labels of letters, digits and dashes with one dot between them",
	},
	{
		"ProvisioningServer", `{spec: {network: {mode: Bridge, bridge: br0}}}`, `{spec: {network: {bridge: br1}}}`,
		"bridge cannot be changed; create another ProvisioningServer",
	},
	{"ProvisioningServer", `{}`, `{spec: {network: {bridge: br0}}}`, "bridge cannot be changed; create another ProvisioningServer"},
	{
		"ProvisioningServer", `{spec: {network: {mtu: 1500}}}`, `{spec: {network: {mtu: 9000}}}`,
		"mtu cannot be changed; create another ProvisioningServer",
	},

	{"BootProfile", "", `{spec: {image: {kernel: {url: "http://example.com/k"}}}}`, "set exactly one of url and path"},
	{
		"BootProfile", "", `{spec: {image: {initrd: {path: ../initrd}}}}`,
		"path must be relative to the lab's image folder and must not contain ..",
	},
	{
		"BootProfile", "", `{spec: {image: {source: {path: /etc/shadow}}}}`,
		"path must be relative to the lab's image folder and must not contain ..",
	},
	{"BootProfile", "", `{spec: {image: {source: {checksum: "sha256:"}}}}`, "checksum must be sha256:<64 hex digits>"},
	{"BootProfile", "", `{spec: {image: {source: {checksum: "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709"}}}}`, "must begin with sha256: or"},
	{"BootProfile", "", `{spec: {image: {source: {checksum: null}}}}`, "checksum is required with url and path"},
	{"BootProfile", "", `{spec: {image: {source: {url: "http://example.com/i"}}}}`, "set exactly one of url, path and buildRef"},
	{"BootProfile", "", `{spec: {image: {source: {path: null}}}}`, "set exactly one of url, path and buildRef"},
	{
		"BootProfile", "", `{spec: {image: {source: {path: null, checksum: null, buildRef: {name: web}}, kernel: null, initrd: null}}}`,
		"buildRef is not supported yet; use url or path",
	},
	{
		"BootProfile", "", `{spec: {image: {source: {path: null, checksum: null, buildRef: {name: web}}}}}`,
		"kernel and initrd are required, except with source.buildRef",
	},
	{"BootProfile", "", `{spec: {image: {kernel: null}}}`, "kernel and initrd are required"},
	{"BootProfile", "", `{spec: {image: {root: {label: root, number: 1}}}}`, "must have at most 1 item"},
	{"BootProfile", "", `{spec: {image: {kernelArgs: ["a\nboot"]}}}`, "kernelArgs must not contain line breaks or other control characters"},
	{"BootProfile", "", `{spec: {image: {kernelArgs: [quiet, "a\tb"]}}}`, "kernelArgs must not contain line breaks or other control characters"},
	{"BootProfile", "", `{spec: {image: {kernelArgs: ["a\e[2J"]}}}`, "kernelArgs must not contain line breaks or other control characters"},
	{"BootProfile", "", `{spec: {userData: {secretRef: {name: a, key: ""}}}}`, "at least 1 chars long"},
	{"BootProfile", "", `{spec: {image: {root: {}}}}`, "should have at least 1 properties"},
	{"BootProfile", "", `{spec: {image: {handoff: Auto}}}`, "handoff Auto is not supported yet; use Reset or Kexec"},
	{"BootProfile", "", `{spec: {image: null}}`, "set exactly one of image, installer, live, iso, efi and script"},
	{
		"BootProfile", "", `{spec: {iso: {path: a.iso, checksum: SHA256SUMS}}}`,
		"set exactly one of image, installer, live, iso, efi and script",
	},
	{"BootProfile", "", `{spec: {image: null, iso: {path: a.iso, checksum: SHA256SUMS}}}`, "only image is supported yet"},
	{"BootProfile", "", `{spec: {image: null, efi: {path: a.efi, checksum: SHA256SUMS}}}`, "only image is supported yet"},
	{"BootProfile", "", `{spec: {image: null, script: {inline: "#!ipxe"}}}`, "only image is supported yet"},
	{
		"BootProfile", "",
		`{spec: {image: null, live: {kernel: {path: k, checksum: SHA256SUMS}, initrd: {path: i, checksum: SHA256SUMS}}}}`,
		"only image is supported yet",
	},
	{
		"BootProfile", "",
		`{spec: {image: null, installer: {kernel: {path: k, checksum: SHA256SUMS}, initrd: {path: i, checksum: SHA256SUMS},` +
			` answerFormat: Preseed, answerFile: {inline: x}}}}`,
		"only image is supported yet",
	},
	{"BootProfile", "", `{spec: {readiness: {type: SSH}}}`, "only readiness CloudInit is supported yet"},
	{"BootProfile", "", `{spec: {readiness: {type: TCP}}}`, "port is required with type TCP, and only allowed with it"},
	{"BootProfile", "", `{spec: {readiness: {type: CloudInit, port: 80}}}`, "port is required with type TCP, and only allowed with it"},
	{"BootProfile", "", `{spec: {userData: {}}}`, "set exactly one of inline and secretRef"},
	{"BootProfile", "", `{spec: {networkConfig: {inline: x, secretRef: {name: a, key: b}}}}`, "set exactly one of inline and secretRef"},
	{"BootProfile", "", `{spec: {userData: {secretRef: {name: ""}}}}`, "Required value"},
	{"BootProfile", "", `{spec: {sshUser: "Root User"}}`, "should match"},
	{"BootProfile", "", `{spec: {image: {handoff: Jump}}}`, "Unsupported value"},
	{"BootProfile", `{}`, `{spec: {architecture: aarch64}}`, "architecture cannot be changed; create another BootProfile"},

	{"BareMetalTarget", "", `{metadata: {name: ` + strings.Repeat("a", 64) + `}}`, "name must be at most 63 characters"},
	{"BareMetalTarget", "", `{spec: {provisioningServerRef: null}}`, "Required value"},
	{"BareMetalTarget", "", `{spec: {bootProfileRef: {name: ""}}}`, "at least 1 chars long"},
	{"BareMetalTarget", "", `{spec: {machine: {memory: 1Mi}}}`, "memory must be at least 512Mi"},
	{"BareMetalTarget", "", `{spec: {machine: {disks: []}}}`, "at least 1 items"},
	{"BareMetalTarget", "", `{spec: {bootProfileRef: null}}`, "bootProfileRef is required: a target without a profile is not supported yet"},
	{"BareMetalTarget", "", `{spec: {machine: {firmware: EFI32}}}`, "Unsupported value"},
	{"BareMetalTarget", "", `{spec: {machine: {firmware: BIOS}}}`, "only firmware UEFI is supported yet"},
	{"BareMetalTarget", "", `{spec: {machine: {runner: External}}}`, "runner External is not supported yet; use QEMU or Simulated"},
	{"BareMetalTarget", "", `{spec: {machine: {runner: Docker}}}`, "Unsupported value"},
	{"BareMetalTarget", "", `{spec: {machine: {simulation: {bootDelay: 1s}}}}`, "simulation requires runner Simulated"},
	{"BareMetalTarget", "", `{spec: {machine: {runner: QEMU, simulation: {}}}}`, "simulation requires runner Simulated"},
	{"BareMetalTarget", "", simulated(`{linkRate: 0}`), "linkRate must be between 1k and 1T"},
	{"BareMetalTarget", "", simulated(`{linkRate: -1M}`), "linkRate must be between 1k and 1T"},
	{"BareMetalTarget", "", simulated(`{linkRate: 2T}`), "linkRate must be between 1k and 1T"},
	{"BareMetalTarget", "", simulated(`{firmwareDelay: 61m}`), "firmwareDelay must be between 0s and 1h"},
	{"BareMetalTarget", "", simulated(`{bootDelay: -1s}`), "bootDelay must be between 0s and 1h"},
	{"BareMetalTarget", "", simulated(`{faults: [{type: Fire}]}`), "Unsupported value"},
	{"BareMetalTarget", "", simulated(`{faults: [{attempts: 1}]}`), "Required value"},
	{"BareMetalTarget", "", simulated(`{faults: [{type: NoSSH}, {type: NoSSH, attempts: 1}]}`), "Duplicate value"},
	{"BareMetalTarget", "", simulated(`{faults: [{type: NoSSH, attempts: 0}]}`), "greater than or equal to 1"},
	{"BareMetalTarget", "", simulated(`{faults: [{type: NoSSH, probability: 101}]}`), "less than or equal to 100"},
	{"BareMetalTarget", "", `{spec: {machine: {networkBoot: HTTP}}}`, "only networkBoot PXE is supported yet"},
	{"BareMetalTarget", "", `{spec: {machine: {secureBoot: true}}}`, "secureBoot is not supported yet"},
	{"BareMetalTarget", "", `{spec: {machine: {tpm: true}}}`, "tpm is not supported yet"},
	{"BareMetalTarget", "", `{spec: {machine: {smbios: {serial: "1"}}}}`, "smbios is not supported yet"},
	{"BareMetalTarget", "", `{spec: {machine: {disks: [{size: 1Gi}]}}}`, "Required value"},
	{"BareMetalTarget", "", `{spec: {machine: {disks: [{name: Disk, size: 1Gi}]}}}`, "should match"},
	{"BareMetalTarget", "", `{spec: {machine: {disks: [{name: a, size: 1Gi}, {name: a, size: 2Gi}]}}}`, "Duplicate value"},
	{"BareMetalTarget", "", `{spec: {machine: {disks: [{name: a, size: 1Gi, bus: NVMe}]}}}`, "only bus Virtio is supported yet"},
	{"BareMetalTarget", "", `{spec: {machine: {disks: [{name: a, size: 1Gi, serial: "a b"}]}}}`, "should match"},
	{
		"BareMetalTarget", "", `{spec: {machine: {disks: [{name: a, size: 1Gi, source: {retained: x}}, {name: b, size: 1Gi}]}}}`,
		"source must be the same for all disks",
	},
	{
		"BareMetalTarget", "",
		`{spec: {machine: {disks: [{name: a, size: 1Gi, source: {retained: x}}, {name: b, size: 1Gi, source: {retained: other}}]}}}`,
		"source must be the same for all disks",
	},
	{"BareMetalTarget", "", `{spec: {machine: {disks: [{name: a, size: 1Gi, source: {}}]}}}`, "Required value"},
	{"BareMetalTarget", "", `{spec: {machine: {disks: [{name: a, size: 1Gi, source: {retained: ../other}}]}}}`, "should match"},
	{
		"BareMetalTarget", `{}`, `{spec: {machine: {disks: [{name: disk0, size: 10Gi, source: {retained: x}}]}}}`,
		"source cannot be changed; create another BareMetalTarget",
	},
	{
		"BareMetalTarget", `{spec: {machine: {disks: [{name: disk0, size: 10Gi, source: {retained: x}}]}}}`,
		`{spec: {machine: {disks: [{name: disk0, size: 10Gi, source: {retained: other}}]}}}`,
		"source cannot be changed; create another BareMetalTarget",
	},
	{"BareMetalTarget", "", `{spec: {machine: {nics: []}}}`, "at least 1 items"},
	{"BareMetalTarget", "", `{spec: {machine: {nics: [{name: a}, {name: b}]}}}`, "only one NIC is supported yet"},
	{"BareMetalTarget", "", `{spec: {machine: {nics: [{name: a, boot: false}]}}}`, "boot must not be false for every NIC"},
	{"BareMetalTarget", "", `{spec: {machine: {nics: [{name: a, network: other}]}}}`, "network is not supported yet"},
	{"BareMetalTarget", "", `{spec: {machine: {nics: [{name: a, mac: "52-54-00-aa-00-01"}]}}}`, "should match"},
	{"BareMetalTarget", "", `{spec: {machine: {nics: [{name: a, mac: "53:54:00:aa:00:01"}]}}}`, "should match"},
	{"BareMetalTarget", "", `{spec: {machine: {nics: [{name: a, addresses: [10.88.0]}]}}}`, "must be an IPv4 address"},
	{"BareMetalTarget", "", `{spec: {machine: {nics: [{name: a, addresses: [10.88.0.20, 10.88.0.21]}]}}}`, "must have at most 1 item"},
	{"BareMetalTarget", "", `{spec: {rootDisk: {name: disk1}}}`, "rootDisk.name must be the name of a disk in machine.disks"},
	{"BareMetalTarget", "", `{spec: {rootDisk: {}}}`, "at least 1 properties"},
	{"BareMetalTarget", "", `{spec: {rootDisk: {minSize: 0}}}`, "minSize must be positive"},
	{"BareMetalTarget", "", `{spec: {rootDisk: {minSize: -1Gi}}}`, "minSize must be positive"},
	{"BareMetalTarget", "", `{spec: {rootDisk: {serial: "` + strings.Repeat("x", 65) + `"}}}`, "Too long"},
	{"BareMetalTarget", "", `{spec: {onNetworkBoot: Install}}`, "onNetworkBoot Install is not supported yet; raise installGeneration"},
	{"BareMetalTarget", "", `{spec: {cleaning: Some}}`, "Unsupported value"},
	{"BareMetalTarget", "", `{spec: {parametersFrom: [{secretRef: {name: a}}]}}`, "parametersFrom is not supported yet; use parameters"},
	{"BareMetalTarget", "", `{spec: {userData: {}}}`, "set exactly one of inline and secretRef"},
	{"BareMetalTarget", "", `{spec: {networkConfig: {}}}`, "set exactly one of inline and secretRef"},
	{"BareMetalTarget", "", `{spec: {userData: {inline: x}}}`, "userData is not supported here yet; set it in the BootProfile"},
	{"BareMetalTarget", "", `{spec: {networkConfig: {inline: x}}}`, "networkConfig is not supported here yet; set it in the BootProfile"},
	{"BareMetalTarget", "", `{spec: {hostname: "-a"}}`, "should match"},
	{"BareMetalTarget", "", `{spec: {power: Maybe}}`, "Unsupported value"},
	{"BareMetalTarget", "", `{spec: {diskRetention: Shred}}`, "Unsupported value"},
	{"BareMetalTarget", "", `{spec: {installGeneration: 0}}`, "greater than or equal to 1"},
	{"BareMetalTarget", "", `{spec: {installTimeout: 59s}}`, "installTimeout must be between 1m and 24h"},
	{"BareMetalTarget", "", `{spec: {installTimeout: 25h}}`, "installTimeout must be between 1m and 24h"},
	{"BareMetalTarget", "", `{spec: {maxAttempts: 0}}`, "greater than or equal to 1"},
	{"BareMetalTarget", "", `{spec: {maxAttempts: 101}}`, "less than or equal to 100"},
	{"BareMetalTarget", "", `{spec: {profileChangePolicy: Ask}}`, "Unsupported value"},
	{"BareMetalTarget", `{}`, `{spec: {machine: {architecture: aarch64}}}`, "architecture cannot be changed; create another BareMetalTarget"},
	{"BareMetalTarget", `{}`, `{spec: {machine: {runner: Simulated}}}`, "runner cannot be changed; create another BareMetalTarget"},
	{
		"BareMetalTarget", `{spec: {machine: {runner: Simulated}}}`, `{spec: {machine: {runner: QEMU}}}`,
		"runner cannot be changed; create another BareMetalTarget",
	},
	{
		"BareMetalTarget", `{spec: {machine: {runner: Simulated}}}`, `{spec: {machine: {runner: null}}}`,
		"runner cannot be changed; create another BareMetalTarget",
	},
	{"BareMetalTarget", `{}`, `{spec: {machine: {disks: [{name: disk0, size: 20Gi}]}}}`, "size cannot be changed; create another BareMetalTarget"},
	{"BareMetalTarget", `{}`, `{spec: {machine: {disks: [{name: a, size: 10Gi}]}}}`, "disks cannot be added, removed, renamed or reordered"},
	{
		"BareMetalTarget", `{spec: {machine: {disks: [{name: a, size: 1Gi}, {name: b, size: 1Gi}]}}}`,
		`{spec: {machine: {disks: [{name: b, size: 1Gi}, {name: a, size: 1Gi}]}}}`, "disks cannot be added, removed, renamed or reordered",
	},
	{"BareMetalTarget", `{}`, `{spec: {machine: {disks: [{name: disk0, size: 10Gi, bus: NVMe}]}}}`, "bus cannot be changed; create another BareMetalTarget"},
	{"BareMetalTarget", `{}`, `{spec: {machine: {disks: [{name: disk0, size: 10Gi, serial: A}]}}}`, "serial cannot be changed"},
	{
		"BareMetalTarget", `{spec: {machine: {disks: [{name: a, size: 1Gi, serial: A}]}}}`,
		`{spec: {machine: {disks: [{name: a, size: 1Gi, serial: B}]}}}`, "serial cannot be changed; create another BareMetalTarget",
	},
	{"BareMetalTarget", "", `{spec: {machine: {disks: [{name: a, size: 0}]}}}`, "size must be at least 1Mi"},
	{"BareMetalTarget", "", `{spec: {machine: {disks: [{name: a, size: 1000}]}}}`, "size must be at least 1Mi"},
	{"BareMetalTarget", "", `{spec: {machine: {disks: [{name: a, size: 1Gi}, {name: b, size: -1Gi}]}}}`, "size must be at least 1Mi"},
	{"BareMetalTarget", "", `{spec: {machine: {nics: [{name: a, mac: "00:00:00:00:00:00"}]}}}`, "mac must not be zero"},
	{"BareMetalTarget", "", `{spec: {parameters: {"": x}}}`, "parameters must have names of 1 to 63 characters"},
	{"BareMetalTarget", "", `{spec: {parameters: {` + strings.Repeat("a", 64) + `: x}}}`, "parameters must have names of 1 to 63 characters"},
	{
		"BareMetalTarget", `{}`, `{spec: {provisioningServerRef: {name: other}}}`,
		"provisioningServerRef cannot be changed; create another BareMetalTarget",
	},
	{
		"BareMetalTarget", `{}`, `{spec: {machine: {nics: [{name: eth0}]}}}`,
		"nics cannot be added, removed or renamed; create another BareMetalTarget",
	},
	{
		"BareMetalTarget", `{}`, `{spec: {machine: {nics: [{name: lab, mac: "52:54:00:aa:00:01"}]}}}`,
		"mac cannot be changed; create another BareMetalTarget",
	},
	{
		"BareMetalTarget", `{spec: {machine: {nics: [{name: a, mac: "52:54:00:aa:00:01"}]}}}`,
		`{spec: {machine: {nics: [{name: a, mac: "52:54:00:aa:00:02"}]}}}`, "mac cannot be changed; create another BareMetalTarget",
	},
	{
		"BareMetalTarget", `{spec: {machine: {nics: [{name: a, mac: "52:54:00:AA:00:01"}]}}}`,
		`{spec: {machine: {nics: [{name: a}]}}}`, "mac cannot be changed; create another BareMetalTarget",
	},
}

// simulated returns a patch for a target with a simulation.
func simulated(simulation string) string {
	return `{spec: {machine: {runner: Simulated, simulation: ` + simulation + `}}}`
}

// TestSchemaAcceptsSimulation covers every fault and the limits of each field, also that
// a simulation can be edited.
func TestSchemaAcceptsSimulation(t *testing.T) {
	ns := makeNamespace(t)
	var faults []string
	for _, f := range []v1alpha1.SimulatedFaultType{
		v1alpha1.SimulatedFaultNoDiscover, v1alpha1.SimulatedFaultNoRequest, v1alpha1.SimulatedFaultTFTPAbort,
		v1alpha1.SimulatedFaultScriptAbort, v1alpha1.SimulatedFaultInstallerError, v1alpha1.SimulatedFaultInstallerStall,
		v1alpha1.SimulatedFaultCloudInitFail, v1alpha1.SimulatedFaultNoPhoneHome, v1alpha1.SimulatedFaultNoSSH,
		v1alpha1.SimulatedFaultPowersOff, v1alpha1.SimulatedFaultResetLoop, v1alpha1.SimulatedFaultForeignMAC,
	} {
		faults = append(faults, "{type: "+string(f)+"}")
	}
	o := decode(t, "BareMetalTarget", valid["BareMetalTarget"])
	o.SetNamespace(ns)
	o.SetName("simulated")
	merge(t, o, simulated(`{}`))
	if err := cluster.client.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, simulation := range []string{
		`{linkRate: 1k, firmwareDelay: 0s, bootDelay: 1h}`,
		`{linkRate: 1T, firmwareDelay: 1h, bootDelay: 1500ms}`,
		`{faults: [` + strings.Join(faults, ", ") + `]}`,
		`{faults: [{type: NoSSH, attempts: 1, probability: 100}, {type: PowersOff, probability: 1}]}`,
	} {
		raw, err := yaml.YAMLToJSON([]byte(simulated(simulation)))
		if err != nil {
			t.Fatal(err)
		}
		if err := cluster.client.Patch(t.Context(), o, client.RawPatch(types.MergePatchType, raw), client.FieldValidation("Strict")); err != nil {
			t.Errorf("%s: got error %v, want none", simulation, err)
		}
	}
}

// A size in another unit is the same size.
func TestSchemaAcceptsEqualQuantities(t *testing.T) {
	ns := makeNamespace(t)
	o := decode(t, "BareMetalTarget", valid["BareMetalTarget"])
	o.SetNamespace(ns)
	o.SetName("sizes")
	merge(t, o, `{spec: {machine: {disks: [{name: a, size: 2048Mi}, {name: b, size: 1Mi}]}}}`)
	if err := cluster.client.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, size := range []string{"2Gi", "2147483648", `"2147483648"`, "2097152Ki", "2048Mi"} {
		raw, err := yaml.YAMLToJSON([]byte(`{spec: {machine: {disks: [{name: a, size: ` + size + `}, {name: b, size: 1048576}]}}}`))
		if err != nil {
			t.Fatal(err)
		}
		if err := cluster.client.Patch(t.Context(), o, client.RawPatch(types.MergePatchType, raw), client.FieldValidation("Strict")); err != nil {
			t.Errorf("%s: got error %v, want none", size, err)
		}
	}
}

func TestSchemaAcceptsChecksums(t *testing.T) {
	ns := makeNamespace(t)
	for i, checksum := range []string{
		"sha256:" + strings.Repeat("aB", 32), "SHA256:" + strings.Repeat("0f", 32), "sha512:" + strings.Repeat("Cd", 64),
		"debian/SHA256SUMS", "image.qcow2.sha256", "https://example.com/SHA512SUMS", "abc", "sha256sums",
	} {
		o := decode(t, "BootProfile", valid["BootProfile"])
		o.SetNamespace(ns)
		o.SetName(fmt.Sprintf("profile-%d", i))
		merge(t, o, `{spec: {image: {source: {checksum: "`+checksum+`"}}}}`)
		if err := cluster.client.Create(t.Context(), o, client.DryRunAll); err != nil {
			t.Errorf("%s: got error %v, want none", checksum, err)
		}
	}
}

func TestSchemaRefusesInvalidObjects(t *testing.T) {
	ns := makeNamespace(t)
	for i, c := range refused {
		o := decode(t, c.kind, valid[c.kind])
		o.SetNamespace(ns)
		o.SetName(fmt.Sprintf("object-%d", i))
		var err error
		if c.from == "" {
			merge(t, o, c.patch)
			err = cluster.client.Create(t.Context(), o, client.DryRunAll)
		} else {
			merge(t, o, c.from)
			if err := cluster.client.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			raw, yamlErr := yaml.YAMLToJSON([]byte(c.patch))
			if yamlErr != nil {
				t.Fatal(yamlErr)
			}
			err = cluster.client.Patch(t.Context(), o, client.RawPatch(types.MergePatchType, raw))
		}
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s %s %s: got %v, want a refusal with %q", c.kind, c.from, c.patch, err, c.message)
		}
	}
}

// Every rule of the schemas has an object above that it refuses.
func TestSchemaRulesAreTested(t *testing.T) {
	for _, crd := range readCRDs(t) {
		schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		walk("", schema, func(path string, s *apiextensionsv1.JSONSchemaProps) {
			for _, rule := range s.XValidations {
				tested := slices.ContainsFunc(refused, func(c struct{ kind, from, patch, message string }) bool {
					return c.kind == crd.Spec.Names.Kind && strings.Contains(rule.Message, c.message)
				})
				if !tested {
					t.Errorf("%s%s: got no object that violates the rule %q, want one in the table refused", crd.Spec.Names.Kind, path, rule.Message)
				}
			}
		})
	}
}

// "kubectl explain" has a word on every field.
func TestSchemaFieldsAreDocumented(t *testing.T) {
	for _, crd := range readCRDs(t) {
		schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		if schema.Description == "" {
			t.Errorf("%s: got no description, want one", crd.Spec.Names.Kind)
		}
		walk("", schema, func(path string, s *apiextensionsv1.JSONSchemaProps) {
			inside := strings.HasPrefix(path, ".spec.") || strings.HasPrefix(path, ".status.")
			item := strings.HasSuffix(path, "[]") || strings.HasSuffix(path, "{}")
			if inside && !item && s.Description == "" {
				t.Errorf("%s%s: got no description, want one", crd.Spec.Names.Kind, path)
			}
			description := strings.Join(strings.Fields(s.Description), " ")
			for _, rule := range s.XValidations {
				ofField := !strings.Contains(rule.Rule, "has(self.") // else the rule is that of the object
				if ofField && strings.HasSuffix(strings.Split(rule.Message, ";")[0], " yet") && !strings.Contains(description, "supported yet") {
					t.Errorf("%s%s: got description %q, want it to report that %s", crd.Spec.Names.Kind, path, s.Description, rule.Message)
				}
			}
		})
		if crd.Spec.Versions[0].AdditionalPrinterColumns == nil {
			t.Errorf("%s: got no printer columns, want some", crd.Spec.Names.Kind)
		}
		if crd.Spec.Names.ShortNames == nil {
			t.Errorf("%s: got no short name, want one", crd.Spec.Names.Kind)
		}
	}
}

func TestSchemaDefaults(t *testing.T) {
	ns := makeNamespace(t)
	want := map[string]string{
		"ProvisioningServer": `
machine:
  architecture: aarch64
  cpus: 1
  diskSize: 16Gi
  image: {checksum: SHA256SUMS, format: qcow2, path: server.qcow2}
  memory: 1Gi
network: {cidr: 10.88.0.0/20, domain: lab.internal, gateway: NAT, mode: Userspace}
`,
		"BootProfile": `
architecture: x86_64
image:
  source: {path: image.qcow2, checksum: SHA256SUMS, format: qcow2}
  kernel: {path: kernel, checksum: SHA256SUMS}
  initrd: {path: initrd, checksum: SHA256SUMS}
  handoff: Reset
sshUser: lab
`,
		"BareMetalTarget": `
provisioningServerRef: {name: lab}
bootProfileRef: {name: debian}
machine:
  runner: QEMU
  architecture: x86_64
  cpus: 1
  memory: 1Gi
  firmware: UEFI
  networkBoot: PXE
  disks: [{name: disk0, size: 10Gi, bus: Virtio}]
  nics: [{name: lab}]
installGeneration: 1
onNetworkBoot: Disk
installTimeout: 15m
maxAttempts: 3
profileChangePolicy: Keep
diskRetention: Delete
`,
	}
	for kind, spec := range want {
		var wanted map[string]any
		if err := yaml.Unmarshal([]byte(spec), &wanted); err != nil {
			t.Fatal(err)
		}
		written := decode(t, kind, valid[kind])
		// A Go client must not send zeroes for what it leaves to the defaults.
		typed, err := cluster.client.Scheme().New(written.GroupVersionKind())
		if err == nil {
			err = runtime.DefaultUnstructuredConverter.FromUnstructured(written.Object, typed)
		}
		if err != nil {
			t.Fatal(err)
		}
		for name, o := range map[string]client.Object{"written": written, "typed": typed.(client.Object)} {
			o.SetNamespace(ns)
			o.SetName(name)
			if err := cluster.client.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			got := &unstructured.Unstructured{}
			got.SetGroupVersionKind(written.GroupVersionKind())
			if err := cluster.client.Get(t.Context(), client.ObjectKeyFromObject(o), got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(canonical(t, wanted), canonical(t, got.Object["spec"])); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", kind, name, diff)
			}
		}
	}
}

func canonical(t *testing.T, v any) string {
	t.Helper()
	raw, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestSchemaAcceptsSamples(t *testing.T) {
	var files []string
	for _, pattern := range []string{"*.yaml", "*/*.yaml"} {
		found, err := filepath.Glob(filepath.Join("..", "config", "samples", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	kinds := map[string]bool{}
	ns := makeNamespace(t)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range strings.Split(string(raw), "\n---\n") {
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(document), &o.Object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if o.GroupVersionKind().Group != "pxelab.io" {
				continue // kustomizations
			}
			kinds[filepath.Dir(file)+" "+o.GetKind()] = true
			o.SetNamespace(ns)
			if err := cluster.client.Create(t.Context(), o, client.DryRunAll, client.FieldValidation("Strict")); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	if len(kinds) != 9 {
		t.Errorf("the samples have %v; want the three kinds for each distribution and for simulated machines", kinds)
	}
}

func makeNamespace(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "schema-"}}
	if err := cluster.client.Create(context.Background(), ns); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

func decode(t *testing.T, kind, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	o.SetAPIVersion("pxelab.io/v1alpha1")
	o.SetKind(kind)
	return o
}

// merge applies a JSON merge patch (RFC 7386), written as YAML.
func merge(t *testing.T, o *unstructured.Unstructured, patch string) {
	t.Helper()
	var p map[string]any
	if err := yaml.Unmarshal([]byte(patch), &p); err != nil {
		t.Fatal(err)
	}
	mergeInto(o.Object, p)
}

func mergeInto(object, patch map[string]any) {
	for key, value := range patch {
		inner, isMap := value.(map[string]any)
		switch old, _ := object[key].(map[string]any); {
		case value == nil:
			delete(object, key)
		case isMap:
			if old == nil {
				old = map[string]any{}
			}
			object[key] = old
			mergeInto(old, inner)
		default:
			object[key] = value
		}
	}
}

func readCRDs(t *testing.T) []apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "config", "crd", "bases", "*.yaml"))
	if err != nil || len(files) != 3 {
		t.Fatalf("got CRDs %v, error %v, want 3 files", files, err)
	}
	crds := make([]apiextensionsv1.CustomResourceDefinition, len(files))
	for i, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(raw, &crds[i]); err != nil {
			t.Fatal(err)
		}
	}
	return crds
}

// walk visits a schema and all below it.
func walk(path string, s *apiextensionsv1.JSONSchemaProps, visit func(string, *apiextensionsv1.JSONSchemaProps)) {
	visit(path, s)
	for name := range s.Properties {
		property := s.Properties[name]
		walk(path+"."+name, &property, visit)
	}
	if s.Items != nil && s.Items.Schema != nil {
		walk(path+"[]", s.Items.Schema, visit)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		walk(path+"{}", s.AdditionalProperties.Schema, visit)
	}
}
