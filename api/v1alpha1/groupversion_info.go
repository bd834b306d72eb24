// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 contains the API types of pxelab: the kinds that a user
// declares, and the conditions, reasons and phases that report their state.
// +kubebuilder:object:generate=true
// +groupName=pxelab.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "pxelab.io", Version: "v1alpha1"}

// AddToScheme registers every kind of this package with s.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&ProvisioningServer{}, &ProvisioningServerList{},
		&BootProfile{}, &BootProfileList{},
		&BareMetalTarget{}, &BareMetalTargetList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
