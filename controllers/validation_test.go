// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemuimg"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

func TestTargetWaitsForReferences(t *testing.T) {
	l := newLab(t)
	target := newTarget("target-1")
	l.create(target)
	l.waitCondition(target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonReferenceNotFound, "no ProvisioningServer lab in namespace "+l.ns)
	l.create(newServer("lab"))
	l.waitCondition(target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonReferenceNotFound, "no BootProfile debian in namespace "+l.ns)
	l.create(newProfile("debian"))
	l.waitCondition(target, v1alpha1.ConditionValid, "True", v1alpha1.ReasonValid, "")
	l.waitPhase("target-1", v1alpha1.TargetPXE)
}

func TestTargetAddressConflict(t *testing.T) {
	l := up(t)
	first, second, third := newTarget("target-1"), newTarget("target-2"), newTarget("target-3")
	first.Spec.Machine.NICs[0].Addresses = []v1alpha1.IPv4{"10.88.0.50"}
	first.Spec.Machine.NICs[0].MAC = "52:54:00:00:00:50"
	l.create(first)
	l.waitPhase("target-1", v1alpha1.TargetPXE)
	second.Spec.Machine.NICs[0].Addresses = []v1alpha1.IPv4{"10.88.0.50"}
	third.Spec.Machine.NICs[0].MAC = "52:54:00:00:00:50"
	l.create(second, third)
	l.waitCondition(second, v1alpha1.ConditionValid, "False", v1alpha1.ReasonAddressConflict, "spec.machine.nics[lab].addresses 10.88.0.50 is used by target-1")
	l.waitCondition(third, v1alpha1.ConditionValid, "False", v1alpha1.ReasonAddressConflict,
		"spec.machine.nics[lab].mac 52:54:00:00:00:50 is used by target-1")
	l.waitPhase("target-2", v1alpha1.TargetFailed)
	l.checkAlive(second, false)
	l.checkAlive(third, false)
	// One is corrected, for the other its rival goes.
	update(l, second, func(bmt *v1alpha1.BareMetalTarget) {
		bmt.Spec.Machine.NICs[0].Addresses = []v1alpha1.IPv4{"10.88.0.51"}
	})
	l.waitPhase("target-2", v1alpha1.TargetPXE)
	l.must(l.client.Delete(l.ctx, first))
	l.waitGone(first)
	l.waitPhase("target-3", v1alpha1.TargetPXE)
}

func TestTargetSpecAddressIsReserved(t *testing.T) {
	l := newLab(t)
	auto, declared := newTarget("auto"), newTarget("declared")
	declared.Spec.Machine.NICs[0].Addresses = []v1alpha1.IPv4{"10.88.0.10"} // what the other would get
	l.create(declared, auto)
	l.create(newServer("lab"), newProfile("debian"))
	l.waitPhase("declared", v1alpha1.TargetPXE)
	if got := l.waitPhase("auto", v1alpha1.TargetPXE).BootNICStatus().Address(); got != "10.88.0.11" {
		t.Errorf("target without spec.address: got address %s, want 10.88.0.11", got)
	}
}

func TestTargetDoesNotFitProfile(t *testing.T) {
	for name, c := range map[string]struct {
		target   func(*v1alpha1.BareMetalTarget)
		profile  func(*v1alpha1.BootProfile)
		library  func(*library)
		reason   string
		message  string
		corrects func(*lab)
	}{
		"another architecture": {
			target:  func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Machine.Architecture = v1alpha1.ArchitectureAArch64 },
			reason:  v1alpha1.ReasonArchitectureMismatch,
			message: "spec.machine.architecture is aarch64 and profile debian is for x86_64",
			corrects: func(l *lab) {
				arm := newProfile("arm")
				arm.Spec.Architecture = v1alpha1.ArchitectureAArch64
				l.create(arm)
				update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.BootProfileRef.Name = "arm" })
			},
		},
		"an image larger than the disk": {
			library: func(l *library) { l.diskBytes = 3 << 30 },
			reason:  v1alpha1.ReasonImageTooLarge,
			message: "spec.machine.disks[0].size is 2147483648 bytes and the image of profile debian needs 3221225472",
			corrects: func(l *lab) {
				l.library.mu.Lock()
				l.library.diskBytes = 1 << 30
				l.library.mu.Unlock()
				update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.Source.Path = "small.qcow2" })
			},
		},
		"a template that misses a value": {
			profile: func(p *v1alpha1.BootProfile) {
				p.Spec.UserData = &v1alpha1.TextSource{
					Inline: "#cloud-config\nwrite_files: [{path: /etc/role, content: {{ .Parameters.role | quote }}}]\n",
				}
			},
			reason:  v1alpha1.ReasonBadTemplate,
			message: "role",
			corrects: func(l *lab) {
				update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) {
					bmt.Spec.Parameters = map[string]string{"role": "database"}
				})
			},
		},
		"a server without iPXE for it": {
			library: func(l *library) { delete(l.programs, "x86_64") },
			reason:  v1alpha1.ReasonNoIPXEProgram,
			message: "iPXE for x86_64",
			corrects: func(l *lab) {
				l.library.mu.Lock()
				l.library.programs["x86_64"] = "ipxe"
				l.library.mu.Unlock()
				l.reconciled(l.server("lab"))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			profile, target := newProfile("debian"), newTarget("target-1")
			apply(c.target, target)
			apply(c.profile, profile)
			apply(c.library, l.library)
			l.create(newServer("lab"), profile, target)
			l.waitCondition(target, v1alpha1.ConditionReady, "False", c.reason, c.message)
			l.reconciled(target)
			l.checkAlive(target, false)
			c.corrects(l)
			l.waitPhase("target-1", v1alpha1.TargetPXE)
			l.waitCondition(target, v1alpha1.ConditionValid, "True", v1alpha1.ReasonValid, "")
		})
	}
}

// apply edits o, if there is an edit.
func apply[T any](edit func(T), o T) {
	if edit != nil {
		edit(o)
	}
}

// An installed target needs its profile no more.
func TestTargetInstalledSurvivesProfileChange(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) {
		p.Spec.UserData = &v1alpha1.TextSource{Inline: "#cloud-config\nhostname: {{ .Parameters.missing }}\n"}
	})
	l.waitCondition(target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonBadTemplate, "missing")
	update(l, target, func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff })
	l.waitPhase("target-1", v1alpha1.TargetStopped)
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOn })
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	l.answers(target)
	l.waitPhase("target-1", v1alpha1.TargetReady)
}

// The API's data was restored from an older copy: the disks are newer.
func TestTargetKeepsDisksOfLaterGeneration(t *testing.T) {
	l := up(t)
	target := newTarget("target-1")
	target.Spec.Power = v1alpha1.PowerOff
	l.create(target)
	l.waitPhase("target-1", v1alpha1.TargetStopped)
	dir := l.machineDir(target)
	disk := plan.DiskPath(dir, 0)
	attempt := targetdisk.Attempt{ID: 5, Generation: 5, Number: 1}
	_, err := targetdisk.Prepare(dir, attempt, []targetdisk.Disk{{Path: disk, Size: 1 << 20}})
	l.must(err)
	writeFile(t, disk, "installed system")
	_, err = targetdisk.MarkInstalled(dir, attempt, targetdisk.Installed{At: l.now(), ProfileDigest: l.profile("debian").Status.Digest})
	l.must(err)
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOn })
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate,
		"spec.installGeneration 1 has no effect, because 5 was reached already; set it to 6 to install again")
	l.reconciled(target)
	if diff := cmp.Diff(plan.BootOrder(false), l.state(target).BootOrder); diff != "" {
		t.Errorf("boot order (-want +got):\n%s", diff)
	}
	if got := readFile(t, disk, 9); got != "installed" {
		t.Errorf("disk of a later generation: got %q, want it not wiped", got)
	}
}

func TestProfileWaitsForSecret(t *testing.T) {
	l := newLab(t)
	profile := newProfile("debian")
	profile.Spec.UserData = &v1alpha1.TextSource{SecretRef: &v1alpha1.SecretKeyReference{Name: "templates", Key: "user-data"}}
	l.create(newServer("lab"), profile, newTarget("target-1"))
	l.waitCondition(profile, v1alpha1.ConditionReady, "False", v1alpha1.ReasonReferenceNotFound,
		"there is no secret templates with the label pxelab.io/secret=template")
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "templates"}, StringData: map[string]string{"other": "x"}}
	l.create(secret)
	l.reconciled(l.server("lab"))
	l.waitCondition(profile, v1alpha1.ConditionReady, "False", v1alpha1.ReasonReferenceNotFound, "there is no secret templates with the label")
	update(l, secret, func(s *corev1.Secret) { s.Labels = templateLabel })
	l.waitCondition(profile, v1alpha1.ConditionReady, "False", v1alpha1.ReasonReferenceNotFound, "has no key user-data")
	update(l, secret, func(s *corev1.Secret) {
		s.Data["user-data"] = []byte(strings.Repeat("#", netbootapi.MaxTextBytes+1))
	})
	l.waitCondition(profile, v1alpha1.ConditionReady, "False", v1alpha1.ReasonTooLarge, "key user-data of secret templates")
	update(l, secret, func(s *corev1.Secret) { s.Data["user-data"] = []byte("{{ .Unfinished") })
	l.waitCondition(profile, v1alpha1.ConditionReady, "False", v1alpha1.ReasonBadTemplate, "spec.userData")
	update(l, secret, func(s *corev1.Secret) { s.Data["user-data"] = []byte("#cloud-config\nlocale: C\n") })
	l.waitCondition(profile, v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	m := l.waitMachine(target, func(m netbootapi.Machine) bool { return m.Boot == netbootapi.BootInstall })
	if got, want := l.text(m.UserDataTemplate), "#cloud-config\nlocale: C\n"; got != want {
		t.Errorf("entry in netbootd: got template %q, want %q", got, want)
	}
}

// TestProfileRefusesCredentials gives the Secret of a server the label of templates.
func TestProfileRefusesCredentials(t *testing.T) {
	l := newLab(t)
	l.create(newServer("lab"))
	server := l.waitReadyServer("lab")
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: l.ns, Name: controllers.AgentSecret(server.Name)}}
	l.must(l.client.Get(l.ctx, client.ObjectKeyFromObject(secret), secret))
	update(l, secret, func(s *corev1.Secret) { s.Labels = templateLabel })
	profile := newProfile("debian")
	profile.Spec.UserData = &v1alpha1.TextSource{SecretRef: &v1alpha1.SecretKeyReference{Name: secret.Name, Key: "tls.key"}}
	l.create(profile)
	l.waitCondition(profile, v1alpha1.ConditionReady, "False", v1alpha1.ReasonInvalid,
		"contains the credentials of ProvisioningServer lab, which are never served; refer to another secret")
}

func TestProfileReportsFetchFailure(t *testing.T) {
	l := newLab(t)
	l.library.fail("debian-initrd", &artifact.Error{Reason: artifact.ReasonChecksumMismatch, Message: "it is another file"})
	l.library.fail("server.qcow2", &artifact.Error{Reason: artifact.ReasonHTTPStatus, Message: "404 Not Found"})
	server, profile, target := newServer("lab"), newProfile("debian"), newTarget("target-1")
	l.create(server, profile, target)
	l.waitCondition(profile, v1alpha1.ConditionReady, "False", v1alpha1.ReasonChecksumMismatch, "initrd: it is another file")
	l.waitCondition(profile, v1alpha1.ConditionArtifactsReady, "False", v1alpha1.ReasonChecksumMismatch, "")
	l.waitCondition(server, v1alpha1.ConditionReady, "False", v1alpha1.ReasonUnreachable, "404 Not Found")
	l.waitCondition(target, v1alpha1.ConditionReady, "False", v1alpha1.ReasonWaitingForProfile, "debian is not ready")
	// Another source is tried at once, not after the pause of the failed one.
	update(l, profile, func(p *v1alpha1.BootProfile) { p.Spec.Image.Initrd.Path = "right-initrd" })
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) { s.Spec.Machine.Image.Path = "right.qcow2" })
	l.waitPhase("target-1", v1alpha1.TargetPXE)
}

// Whatever goes wrong in a store has a reason that the API takes.
func TestProfileReportsArtifactReasons(t *testing.T) {
	l := newLab(t)
	profile := newProfile("debian")
	l.create(profile)
	l.library.fail("damaged", fmt.Errorf("image: %w", &qemuimg.Error{Reason: qemuimg.ReasonUnsupportedFormat, Message: "it is a song"}))
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.Source.Path = "damaged" })
	l.waitCondition(profile, v1alpha1.ConditionReady, "False", v1alpha1.ReasonUnsupported, "it is a song")
	for _, reason := range []artifact.Reason{
		artifact.ReasonUnreachable, artifact.ReasonHTTPStatus, artifact.ReasonTruncated, artifact.ReasonChecksumMismatch,
		artifact.ReasonNoChecksumEntry, artifact.ReasonForbidden, artifact.ReasonUnsupportedFormat, artifact.ReasonNoSpace, artifact.ReasonNotFound,
		artifact.ReasonTooLarge, artifact.ReasonInvalid, "OfALaterVersion",
	} {
		source := "bad-" + string(reason)
		l.library.fail(source, &artifact.Error{Reason: reason, Message: "because of " + string(reason) + " \xff"})
		update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.Kernel.Path = v1alpha1.ArtifactPath(source) })
		l.eventually(func() string {
			p := l.profile("debian")
			if p.Status.ObservedGeneration == p.Generation && strings.Contains(p.Status.Artifacts[0].Message, string(reason)) {
				return ""
			}
			return "the status does not tell of " + string(reason)
		})
	}
}

func TestServerNetworksOverlap(t *testing.T) {
	l := newLab(t)
	first := newServer("lab")
	first.Spec.Network.Mode = v1alpha1.NetworkVMNetShared
	l.create(first)
	l.waitReadyServer("lab")
	second := newServer("second")
	second.Spec.Network.CIDR, second.Spec.Network.Mode = "10.88.0.128/25", v1alpha1.NetworkVMNetShared
	l.create(second)
	l.waitCondition(second, v1alpha1.ConditionValid, "False", v1alpha1.ReasonAddressConflict, "overlaps the network of server "+l.ns+"/lab")
	// The networks of two switches are separate.
	separate := newServer("separate")
	separate.Spec.Network.CIDR = "10.88.0.128/25"
	l.create(separate)
	l.waitReadyServer("separate")
	third := newServer("third")
	third.Spec.Network.CIDR = "10.0.0.0/16"
	l.create(third)
	l.waitCondition(third, v1alpha1.ConditionReady, "False", v1alpha1.ReasonInvalid, "overlaps 10.0.2.0/24, the server's uplink")
	l.checkAlive(second, false)
	l.checkAlive(third, false)
	l.must(l.client.Delete(l.ctx, l.server("lab")))
	l.waitGone(first)
	l.reconciled(second)
	l.waitReadyServer("second")
}

func TestServerBridgeNotAllowed(t *testing.T) {
	l := newLab(t)
	bridged := newServer("bridged")
	bridged.Spec.Network.Mode, bridged.Spec.Network.Bridge = v1alpha1.NetworkBridge, "cni0"
	l.create(bridged)
	l.waitCondition(bridged, v1alpha1.ConditionValid, "False", v1alpha1.ReasonBridgeNotAllowed, "start it with --allow-bridge=cni0")
	l.checkAlive(bridged, false)
}

func TestServerInUseIsNotDeleted(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-2"), newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	second := l.waitPhase("target-2", v1alpha1.TargetPXE)
	server, profile := l.server("lab"), l.profile("debian")
	l.must(l.client.Delete(l.ctx, server))
	l.must(l.client.Delete(l.ctx, profile))
	const used = "will be deleted when no target uses it; used by target-1, target-2"
	l.waitCondition(server, v1alpha1.ConditionReady, "False", v1alpha1.ReasonInUse, used)
	l.waitCondition(profile, v1alpha1.ConditionReady, "False", v1alpha1.ReasonInUse, used)
	l.checkAlive(server, true)
	// What is in use works on.
	l.becomesReady("target-1")
	l.must(l.client.Delete(l.ctx, target))
	l.waitGone(target)
	// A target that refers to another profile releases the old one.
	l.create(newProfile("other"))
	update(l, l.target("target-2"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.BootProfileRef.Name = "other" })
	l.waitGone(profile)
	l.must(l.client.Delete(l.ctx, second))
	l.waitGone(second)
	l.waitGone(server)
	l.nothingIsLeft()
}

func TestAllObjectsDeletedTogether(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"), newTarget("target-2"))
	l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.waitPhase("target-2", v1alpha1.TargetPXE)
	server, profile, target, second := l.server("lab"), l.profile("debian"), l.target("target-1"), l.target("target-2")
	l.must(l.client.Delete(l.ctx, server))
	l.must(l.client.Delete(l.ctx, profile))
	l.must(l.client.Delete(l.ctx, target))
	l.must(l.client.Delete(l.ctx, second))
	l.waitGone(server)
	l.waitGone(profile)
	l.waitGone(target)
	l.waitGone(second)
	l.nothingIsLeft()
}

// nothingIsLeft of any machine on the host.
func (l *lab) nothingIsLeft() {
	l.t.Helper()
	states, err := l.machines.List(l.ctx)
	l.must(err)
	if len(states) > 0 {
		l.t.Errorf("got machines %+v, want none to be left", states)
	}
	for _, dir := range []string{filepath.Join(l.data, "machines"), l.runtime} {
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				l.t.Errorf("got file %s, want none to be left", path)
			}
			return nil
		})
		l.must(err)
	}
}

func TestTargetRetainsDisks(t *testing.T) {
	l := up(t)
	for _, retention := range []v1alpha1.DiskRetention{v1alpha1.RetentionRetain, v1alpha1.RetentionDelete} {
		target := newTarget("target-" + strings.ToLower(string(retention)))
		target.Spec.DiskRetention = retention
		l.create(target)
		l.waitPhase(target.Name, v1alpha1.TargetPXE)
		writeFile(t, plan.DiskPath(l.machineDir(target), 0), "installed system")
		l.must(l.client.Delete(l.ctx, target))
		l.waitGone(target)
		kept := filepath.Join(l.data, "retained", l.ns+"-"+target.Name+"-"+string(target.UID), "disk0.raw")
		_, err := os.Stat(kept)
		if got, want := err == nil, retention == v1alpha1.RetentionRetain; got != want {
			t.Errorf("retention %s: got disk kept %t, want %t", retention, got, want)
		}
		if err == nil {
			if got := readFile(t, kept, 9); got != "installed" {
				t.Errorf("retention %s: got disk %q, want \"installed\"", retention, got)
			}
			l.waitEvent(target, "DisksRetained", filepath.Dir(kept))
		}
		if _, err := os.Stat(l.machineDir(target)); err == nil {
			t.Errorf("retention %s: got the machine's directory %s, want it removed", retention, l.machineDir(target))
		}
	}
}

// Nothing is removed before all of it is kept, by this manager or the next.
func TestTargetRetriesFailedRetention(t *testing.T) {
	l := up(t)
	target := newTarget("target-1")
	target.Spec.DiskRetention = v1alpha1.RetentionRetain
	target.Spec.Machine.Disks = append(target.Spec.Machine.Disks, v1alpha1.Disk{Name: "disk1", Size: resource.MustParse("2Gi")})
	l.create(target)
	l.waitPhase("target-1", v1alpha1.TargetPXE)
	for i := range 2 {
		writeFile(t, plan.DiskPath(l.machineDir(target), i), fmt.Sprint("system on disk ", i))
	}
	kept := filepath.Join(l.data, "retained", l.ns+"-target-1-"+string(target.UID))
	obstacle := plan.DiskPath(kept, 1)
	l.must(os.MkdirAll(filepath.Join(obstacle, "x"), 0o700))
	l.must(l.client.Delete(l.ctx, target))
	l.waitCondition(target, v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonFailed, "retaining disks")
	l.reconciled(target)
	l.stopManager()
	l.must(os.RemoveAll(obstacle))
	l.start()
	l.waitGone(target)
	for i := range 2 {
		if got := readFile(t, plan.DiskPath(kept, i), 16); got != fmt.Sprint("system on disk ", i) {
			t.Errorf("retained disk %d: got %q, want %q", i, got, fmt.Sprint("system on disk ", i))
		}
	}
	if record, err := targetdisk.Load(kept); err != nil || record.Generation != 1 {
		t.Errorf("record of the retained disks: got %+v, error %v, want generation 1", record, err)
	}
	l.waitEvent(target, "DisksRetained", kept)
}

// An object with a foreign finalizer is kept, and nothing is done to it.
func TestTargetWithForeignFinalizer(t *testing.T) {
	l := up(t)
	target := newTarget("target-1")
	target.Finalizers = []string{"example.com/hold"}
	l.create(target)
	l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.must(l.client.Delete(l.ctx, target))
	l.waitTarget("target-1", "released", func(bmt *v1alpha1.BareMetalTarget) bool {
		return !slices.Contains(bmt.Finalizers, v1alpha1.Finalizer)
	})
	l.set.TargetsObserved([]string{string(target.UID)})
	l.checkAlive(target, false)
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Finalizers = nil })
	l.waitGone(target)
}

func TestServerReportsUnknownClients(t *testing.T) {
	l := up(t)
	l.netbootd("lab").Update(func(s *netbootapi.State) {
		s.Version = "sha256:ba7816bf8f01"
		s.Unknown = []netbootapi.UnknownClient{{MAC: "02:00:00:00:00:09", Architecture: "x86_64"}}
		s.Leases = []netbootapi.Lease{{MAC: "02:00:00:00:00:09", Address: plan.Uplink.Addr(), Hostname: "stranger"}}
	})
	l.eventually(func() string {
		s := l.server("lab").Status
		if s.NetbootdVersion != "sha256:ba7816bf8f01" {
			return fmt.Sprintf("netbootdVersion: got %q, want sha256:ba7816bf8f01", s.NetbootdVersion)
		}
		if len(s.UnknownClients) != 1 || s.UnknownClients[0].MACAddress != "02:00:00:00:00:09" {
			return fmt.Sprintf("unknownClients: got %+v, want 02:00:00:00:00:09", s.UnknownClients)
		}
		if len(s.Leases) != 1 || s.Leases[0].Hostname != "stranger" {
			return fmt.Sprintf("leases: got %+v, want one of \"stranger\"", s.Leases)
		}
		return ""
	})
}

func TestServerReportsFailedService(t *testing.T) {
	l := up(t)
	server := l.server("lab")
	l.netbootd("lab").Update(func(s *netbootapi.State) {
		s.Services = map[string]netbootapi.Service{"dhcp": {Error: "address in use"}, "tftp": s.Services["tftp"], "http": s.Services["http"], "dns": s.Services["dns"], "ntp": s.Services["ntp"]}
	})
	l.waitCondition(server, v1alpha1.ConditionDHCPReady, "False", v1alpha1.ReasonNotServing, "address in use")
	l.waitCondition(server, v1alpha1.ConditionReady, "False", v1alpha1.ReasonNotServing, "DHCPReady")
	if got := server.Status.Phase; got != v1alpha1.ServerDegraded {
		t.Errorf("server with a failed service: got phase %s, want %s", got, v1alpha1.ServerDegraded)
	}
}

// The manager gives up nothing when the host refuses for a while.
func TestServerReportsFailedStart(t *testing.T) {
	l := newLab(t)
	l.machines.Fail("Start", os.ErrPermission)
	server := newServer("lab")
	l.create(server, newProfile("debian"), newTarget("target-1"))
	l.waitCondition(server, v1alpha1.ConditionReady, "False", v1alpha1.ReasonFailed, "starting the machine")
	l.machines.Fail("Start", nil)
	l.waitReadyServer("lab")
	l.waitPhase("target-1", v1alpha1.TargetPXE)

	target := l.target("target-1")
	l.machines.Fail("Observe", os.ErrPermission)
	l.set.ServerObserved(string(server.UID))
	l.set.TargetsObserved([]string{string(target.UID)})
	l.waitCondition(target, v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonFailed, "observing the machine")
	if got := target.Status.Phase; got != v1alpha1.TargetPXE {
		t.Errorf("machine that cannot be observed: got phase %s, want %s", got, v1alpha1.TargetPXE)
	}
	if got := target.Status.Power; got != v1alpha1.PowerOn {
		t.Errorf("machine that cannot be observed: got power %s, want %s", got, v1alpha1.PowerOn)
	}
	l.machines.Fail("Observe", nil)
	l.waitCondition(target, v1alpha1.ConditionProgressing, "True", v1alpha1.ReasonNetworkBoot, "")
}

// TestSimulatedTarget has a simulated target, and one whose server's network cannot be
// simulated.
func TestSimulatedTarget(t *testing.T) {
	l := up(t)
	percent := int32(20)
	target := newTarget("target-1")
	target.Spec.Machine.Runner = v1alpha1.RunnerSimulated
	target.Spec.Machine.Simulation = &v1alpha1.Simulation{
		BootDelay: &metav1.Duration{Duration: time.Second},
		Faults:    []v1alpha1.SimulatedFault{{Type: v1alpha1.SimulatedFaultNoSSH, Probability: &percent}},
	}
	l.create(target)
	target = l.waitPhase("target-1", v1alpha1.TargetPXE)
	want := &machine.Simulation{BootDelay: time.Second, Faults: []machine.SimulatedFault{{Type: "NoSSH", Probability: 0.2}}}
	started, ok := l.machines.Described(string(target.UID))
	if diff := cmp.Diff(want, started.Simulation); !ok || started.Kind != machine.KindSimulated || diff != "" {
		t.Errorf("got machine %+v, started %t; want a simulated one (-want +got):\n%s", started, ok, diff)
	}
	if c := target.Status.Consoles; c.SerialSocket == "" || c.SerialLog == "" || c.VNCSocket != "" {
		t.Errorf("got consoles %+v, want only the serial console", c)
	}
	bridged := newServer("bridged")
	bridged.Spec.Network.CIDR, bridged.Spec.Network.Mode, bridged.Spec.Network.Bridge = "10.89.0.0/24", v1alpha1.NetworkBridge, "br0"
	other := newTarget("target-2")
	other.Spec.ProvisioningServerRef.Name = "bridged"
	other.Spec.Machine.Runner = v1alpha1.RunnerSimulated
	l.create(bridged, other)
	l.waitCondition(other, v1alpha1.ConditionValid, "False", v1alpha1.ReasonInvalid, "spec.machine.runner is Simulated, which requires")
	l.checkAlive(other, false)
}
