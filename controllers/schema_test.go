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
  kernel: {path: kernel, checksum: SHA256SUMS}
  initrd: {path: initrd, checksum: SHA256SUMS}
  image: {path: image.qcow2, checksum: SHA256SUMS}
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
	{"ProvisioningServer", "", `{spec: {machine: {image: {url: "http://example.com/i"}}}}`, "give exactly one of url and path"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {path: null}}}}`, "give exactly one of url and path"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {path: null, url: "ftp://example.com/i"}}}}`, "should match"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {path: /etc/shadow}}}}`, "path is relative to the lab's image folder and must not leave it"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {path: a/../../b}}}}`, "path is relative to the lab's image folder and must not leave it"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {checksum: "sha256:abc"}}}}`, "checksum must be sha256:<64 hex digits>"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {checksum: "sha512:abc"}}}}`, "checksum must be sha256:<64 hex digits>"},
	{"ProvisioningServer", "", `{spec: {machine: {image: {checksum: null}}}}`, "Required value"},
	{"ProvisioningServer", "", `{spec: {network: {cidr: 10.88.0.0}}}`, "cidr must be an IPv4 network such as 10.88.0.0/24"},
	{"ProvisioningServer", "", `{spec: {network: {cidr: 10.88.0.300/24}}}`, "cidr must be an IPv4 network such as 10.88.0.0/24"},
	{"ProvisioningServer", "", `{spec: {network: {cidr: "fd00::/64"}}}`, "cidr must be an IPv4 network such as 10.88.0.0/24"},
	{"ProvisioningServer", "", `{spec: {network: {cidr: 10.88.0.1/24}}}`, "its host bits must be zero"},
	{"ProvisioningServer", "", `{spec: {network: {cidr: 10.88.0.0/30}}}`, "a prefix of /29 or wider"},
	{"ProvisioningServer", "", `{spec: {network: {address: 10.99.0.1}}}`, "address must lie in cidr"},
	{"ProvisioningServer", "", `{spec: {network: {address: "fd00::1"}}}`, "address must be an IPv4 address"},
	{"ProvisioningServer", "", `{spec: {network: {address: server}}}`, "address must be an IPv4 address"},
	{"ProvisioningServer", "", `{spec: {network: {dhcp: {rangeStart: 10.99.0.1, rangeEnd: 10.88.0.9}}}}`, "dhcp.rangeStart must lie in cidr"},
	{"ProvisioningServer", "", `{spec: {network: {dhcp: {rangeStart: 10.88.0.9, rangeEnd: 10.99.0.1}}}}`, "dhcp.rangeEnd must lie in cidr"},
	{"ProvisioningServer", "", `{spec: {network: {dhcp: {rangeStart: 10.88.0.9}}}}`, "give both rangeStart and rangeEnd or neither"},
	{"ProvisioningServer", "", `{spec: {network: {dhcp: {leaseTime: 59s}}}}`, "leaseTime must be between 1m and 168h"},
	{"ProvisioningServer", "", `{spec: {network: {dhcp: {leaseTime: 169h}}}}`, "leaseTime must be between 1m and 168h"},
	{"ProvisioningServer", "", `{spec: {network: {dns: [resolver]}}}`, "must be an IPv4 address"},
	{"ProvisioningServer", "", `{spec: {network: {mtu: 1000}}}`, "greater than or equal to 1280"},
	{"ProvisioningServer", "", `{spec: {network: {mtu: 9001}}}`, "less than or equal to 9000"},
	{"ProvisioningServer", "", `{spec: {network: {domain: "Lab_"}}}`, "should match"},
	{"ProvisioningServer", "", `{spec: {network: {mode: Bridge}}}`, "mode Bridge needs the name of the bridge"},
	{"ProvisioningServer", "", `{spec: {network: {mode: Carrier}}}`, "Unsupported value"},
	{"ProvisioningServer", "", `{spec: {network: {mode: Bridge, bridge: b, impairment: {lossPercent: 5}}}}`, "impairment needs mode Userspace"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {lossPercent: 101}}}}`, "lossPercent must be between 0 and 100"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {lossPercent: -1}}}}`, "lossPercent must be between 0 and 100"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {lossPercent: "5%"}}}}`, "should match"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {lossPercent: "100.5"}}}}`, "should match"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {delay: 11s}}}}`, "delay must be between 0s and 10s"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {delay: -1s}}}}`, "delay must be between 0s and 10s"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {jitter: 1s}}}}`, "jitter must not exceed delay"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {delay: 1s, jitter: 2s}}}}`, "jitter must not exceed delay"},
	{"ProvisioningServer", "", `{spec: {network: {impairment: {delay: 1s, jitter: -1s}}}}`, "jitter must not be negative"},
	{"ProvisioningServer", "", `{spec: {ipxe: [{architecture: x86_64, source: {path: a, checksum: b}}, {architecture: x86_64, source: {path: a, checksum: b}}]}}`, "Duplicate value"},
	{"ProvisioningServer", `{}`, `{spec: {machine: {architecture: x86_64}}}`, "architecture cannot be changed; make another ProvisioningServer"},
	{"ProvisioningServer", `{}`, `{spec: {network: {mode: VMNetHost}}}`, "mode cannot be changed; make another ProvisioningServer"},
	{"ProvisioningServer", `{}`, `{spec: {network: {cidr: 10.89.0.0/24}}}`, "cidr cannot be changed; make another ProvisioningServer"},
	{"ProvisioningServer", `{}`, `{spec: {network: {address: 10.88.0.2}}}`, "address cannot be changed; make another ProvisioningServer"},
	{"ProvisioningServer", `{spec: {network: {address: 10.88.0.2}}}`, `{spec: {network: {address: 10.88.0.3}}}`, "address cannot be changed; make another ProvisioningServer"},
	{"ProvisioningServer", `{spec: {network: {address: 10.88.0.2}}}`, `{spec: {network: {address: null}}}`, "address cannot be changed; make another ProvisioningServer"},
	{"ProvisioningServer", `{}`, `{spec: {network: {mtu: 1500}}}`, "mtu cannot be changed; make another ProvisioningServer"},
	{"ProvisioningServer", `{spec: {network: {mtu: 1500}}}`, `{spec: {network: {mtu: 9000}}}`, "mtu cannot be changed; make another ProvisioningServer"},

	{"BootProfile", "", `{spec: {kernel: {url: "http://example.com/k"}}}`, "give exactly one of url and path"},
	{"BootProfile", "", `{spec: {initrd: {path: ../initrd}}}`, "path is relative to the lab's image folder and must not leave it"},
	{"BootProfile", "", `{spec: {image: {checksum: "sha256:"}}}`, "checksum must be sha256:<64 hex digits>"},
	{"BootProfile", "", `{spec: {image: null}}`, "Required value"},
	{"BootProfile", "", `{spec: {userData: {}}}`, "give exactly one of inline and secretRef"},
	{"BootProfile", "", `{spec: {networkConfig: {inline: x, secretRef: {name: a, key: b}}}}`, "give exactly one of inline and secretRef"},
	{"BootProfile", "", `{spec: {userData: {secretRef: {name: ""}}}}`, "Required value"},
	{"BootProfile", "", `{spec: {sshUser: "Root User"}}`, "should match"},
	{"BootProfile", "", `{spec: {install: {handoff: Jump}}}`, "Unsupported value"},
	{"BootProfile", `{}`, `{spec: {architecture: aarch64}}`, "architecture cannot be changed; make another BootProfile"},

	{"BareMetalTarget", "", `{metadata: {name: ` + strings.Repeat("a", 64) + `}}`, "name must be at most 63 characters"},
	{"BareMetalTarget", "", `{spec: {provisioningServerRef: null}}`, "Required value"},
	{"BareMetalTarget", "", `{spec: {bootProfileRef: {name: ""}}}`, "at least 1 chars long"},
	{"BareMetalTarget", "", `{spec: {machine: {memory: 1Mi}}}`, "memory must be at least 512Mi"},
	{"BareMetalTarget", "", `{spec: {machine: {disks: []}}}`, "at least 1 items"},
	{"BareMetalTarget", "", `{spec: {machine: {firmware: BIOS}}}`, "Unsupported value"},
	{"BareMetalTarget", "", `{spec: {macAddress: "52:54:00:AA:00:01"}}`, "should match"},
	{"BareMetalTarget", "", `{spec: {macAddress: "53:54:00:aa:00:01"}}`, "should match"},
	{"BareMetalTarget", "", `{spec: {address: 10.88.0}}`, "must be an IPv4 address"},
	{"BareMetalTarget", "", `{spec: {hostname: "-a"}}`, "should match"},
	{"BareMetalTarget", "", `{spec: {power: Maybe}}`, "Unsupported value"},
	{"BareMetalTarget", "", `{spec: {diskRetention: Shred}}`, "Unsupported value"},
	{"BareMetalTarget", "", `{spec: {installGeneration: 0}}`, "greater than or equal to 1"},
	{"BareMetalTarget", "", `{spec: {installTimeout: 59s}}`, "installTimeout must be between 1m and 24h"},
	{"BareMetalTarget", "", `{spec: {installTimeout: 25h}}`, "installTimeout must be between 1m and 24h"},
	{"BareMetalTarget", "", `{spec: {maxAttempts: 0}}`, "greater than or equal to 1"},
	{"BareMetalTarget", "", `{spec: {maxAttempts: 101}}`, "less than or equal to 100"},
	{"BareMetalTarget", "", `{spec: {profileChangePolicy: Ask}}`, "Unsupported value"},
	{"BareMetalTarget", `{}`, `{spec: {machine: {architecture: aarch64}}}`, "architecture cannot be changed; make another BareMetalTarget"},
	{"BareMetalTarget", `{}`, `{spec: {machine: {disks: [{size: 20Gi}]}}}`, "disks cannot be changed; make another BareMetalTarget"},
	{"BareMetalTarget", `{}`, `{spec: {provisioningServerRef: {name: other}}}`, "provisioningServerRef cannot be changed; make another BareMetalTarget"},
	{"BareMetalTarget", `{}`, `{spec: {macAddress: "52:54:00:aa:00:01"}}`, "macAddress cannot be changed; make another BareMetalTarget"},
	{"BareMetalTarget", `{spec: {macAddress: "52:54:00:aa:00:01"}}`, `{spec: {macAddress: "52:54:00:aa:00:02"}}`, "macAddress cannot be changed; make another BareMetalTarget"},
	{"BareMetalTarget", `{spec: {macAddress: "52:54:00:aa:00:01"}}`, `{spec: {macAddress: null}}`, "macAddress cannot be changed; make another BareMetalTarget"},
	{"BareMetalTarget", `{spec: {installGeneration: 2}}`, `{spec: {installGeneration: 1}}`, "installGeneration can only be raised"},
}

func TestTheSchemaRefusesBadObjects(t *testing.T) {
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
func TestEveryRuleIsTested(t *testing.T) {
	for _, crd := range readCRDs(t) {
		schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		walk("", schema, func(path string, s *apiextensionsv1.JSONSchemaProps) {
			for _, rule := range s.XValidations {
				tested := slices.ContainsFunc(refused, func(c struct{ kind, from, patch, message string }) bool {
					return c.kind == crd.Spec.Names.Kind && strings.Contains(rule.Message, c.message)
				})
				if !tested {
					t.Errorf("%s%s: no test for %q", crd.Spec.Names.Kind, path, rule.Message)
				}
			}
		})
	}
}

// "kubectl explain" has a word on every field.
func TestEveryFieldIsExplained(t *testing.T) {
	for _, crd := range readCRDs(t) {
		schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		if schema.Description == "" {
			t.Errorf("%s has no description", crd.Spec.Names.Kind)
		}
		walk("", schema, func(path string, s *apiextensionsv1.JSONSchemaProps) {
			inside := strings.HasPrefix(path, ".spec.") || strings.HasPrefix(path, ".status.")
			item := strings.HasSuffix(path, "[]") || strings.HasSuffix(path, "{}")
			if inside && !item && s.Description == "" {
				t.Errorf("%s%s has no description", crd.Spec.Names.Kind, path)
			}
		})
		if crd.Spec.Versions[0].AdditionalPrinterColumns == nil || crd.Spec.Names.ShortNames == nil {
			t.Errorf("%s has no printer columns or no short name", crd.Spec.Names.Kind)
		}
	}
}

func TestDefaults(t *testing.T) {
	ns := makeNamespace(t)
	want := map[string]string{
		"ProvisioningServer": `
machine:
  architecture: aarch64
  cpus: 1
  diskSize: 16Gi
  image: {checksum: SHA256SUMS, format: qcow2, path: server.qcow2}
  memory: 1Gi
network: {cidr: 10.88.0.0/24, domain: lab.internal, gateway: NAT, mode: Userspace}
`,
		"BootProfile": `
architecture: x86_64
kernel: {path: kernel, checksum: SHA256SUMS}
initrd: {path: initrd, checksum: SHA256SUMS}
image: {path: image.qcow2, checksum: SHA256SUMS, format: qcow2}
install: {handoff: Reset}
sshUser: lab
`,
		"BareMetalTarget": `
provisioningServerRef: {name: lab}
bootProfileRef: {name: debian}
machine: {architecture: x86_64, cpus: 1, memory: 1Gi, firmware: UEFI, disks: [{size: 10Gi}]}
power: "On"
installGeneration: 1
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

func TestTheSamplesAreAccepted(t *testing.T) {
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
	if len(kinds) != 6 {
		t.Errorf("the samples have %v; want the three kinds for each distribution", kinds)
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
		t.Fatalf("found %v, %v", files, err)
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
