// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// badNetwork installs the second target over a network with packet loss and delay,
// from the firmware's first packet to the last of the image.
func badNetwork(x *trial) {
	x.ready(first)
	watched := x.bystanders()
	loss := intstr.FromInt32(5)
	x.impair(&v1alpha1.Impairment{LossPercent: &loss, Delay: &metav1.Duration{Duration: 100 * time.Millisecond}})
	defer x.impair(nil)
	before := x.bringTo(second, v1alpha1.TargetPXE)
	x.markFault()
	_, at := x.awaitTarget(second, "Installing", x.faultAt, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Status.Phase == v1alpha1.TargetInstalling
	})
	x.Logf("Installing after %.1f s", at.Sub(x.faultAt).Seconds())
	_, at = x.awaitTarget(second, "installed", x.faultAt, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Status.InstalledGeneration == before.Spec.InstallGeneration
	})
	x.recovered(at)
	x.impair(nil)
	x.untouched(watched...)
}

// impair sets the impairment of the lab network, or removes it (nil), and waits
// until it is in effect.
func (x *trial) impair(how *v1alpha1.Impairment) {
	x.Helper()
	from := time.Now()
	o := &v1alpha1.ProvisioningServer{}
	if err := x.client.Get(x.Context(), client.ObjectKey{Namespace: "default", Name: server}, o); err != nil {
		x.Fatal(err)
	}
	base := o.DeepCopy()
	o.Spec.Network.Impairment = how
	if err := x.client.Patch(x.Context(), o, client.MergeFrom(base)); err != nil {
		x.Fatal(err)
	}
	if o.ResourceVersion == base.ResourceVersion {
		return
	}
	x.awaitServer("applying the impairment", from, func(o *v1alpha1.ProvisioningServer) bool {
		return o.Status.ObservedGeneration == o.Generation && (o.Status.Network.Impairment != "") == (how != nil)
	})
}
