// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 is the API of pxelab: the kinds a user declares and the
// conditions, reasons and phases they are told by.
// +kubebuilder:object:generate=true
// +groupName=pxelab.io
package v1alpha1

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/scheme"
)

var (
	// GroupVersion of every kind here.
	GroupVersion  = schema.GroupVersion{Group: "pxelab.io", Version: "v1alpha1"}
	schemeBuilder = &scheme.Builder{GroupVersion: GroupVersion}
	// AddToScheme registers the kinds.
	AddToScheme = schemeBuilder.AddToScheme
)

func init() {
	schemeBuilder.Register(
		&ProvisioningServer{}, &ProvisioningServerList{},
		&BootProfile{}, &BootProfileList{},
		&BareMetalTarget{}, &BareMetalTargetList{},
	)
}
