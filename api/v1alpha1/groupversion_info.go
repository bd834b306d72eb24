// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 is the API of pxelab: the kinds a user declares and the
// conditions, reasons and phases they are told by.
// +kubebuilder:object:generate=true
// +groupName=pxelab.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of every kind here.
var GroupVersion = schema.GroupVersion{Group: "pxelab.io", Version: "v1alpha1"}

// AddToScheme registers the kinds.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&ProvisioningServer{}, &ProvisioningServerList{},
		&BootProfile{}, &BootProfileList{},
		&BareMetalTarget{}, &BareMetalTargetList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
