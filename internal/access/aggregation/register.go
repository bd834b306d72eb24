// SPDX-License-Identifier: Apache-2.0

package aggregation

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/internal/access"
)

const (
	apiServiceName = access.Version + "." + access.Group
	// groupPriority is below that of custom resources, which are 1000: the names of the
	// machines' resources in commands mean the custom resources.
	groupPriority   = 100
	versionPriority = 15
	fieldOwner      = client.FieldOwner("pxelab-manager")
)

// newAPIService returns the APIService without a specification. Its Go types would add
// another module.
func newAPIService() *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("apiregistration.k8s.io/v1")
	o.SetKind("APIService")
	o.SetName(apiServiceName)
	return o
}

// register makes the API server forward the API's requests to this server. It is
// idempotent.
func (s *Server) register(ctx context.Context) error {
	authority := base64.StdEncoding.EncodeToString(s.identity.AuthorityPEM())
	if !s.registersItself() {
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"caBundle": authority}})
		if err != nil {
			return err
		}
		if err := s.o.Client.Patch(ctx, newAPIService(), client.RawPatch(types.MergePatchType, patch), fieldOwner); err != nil {
			return fmt.Errorf("setting the certificate authority of APIService %s, which \"make deploy\" creates: %w", apiServiceName, err)
		}
		return nil
	}
	service := &unstructured.Unstructured{}
	service.SetAPIVersion("v1")
	service.SetKind("Service")
	service.SetNamespace(s.service.Namespace)
	service.SetName(s.service.Name)
	service.Object["spec"] = map[string]any{"type": "ExternalName", "externalName": s.host}
	if err := s.apply(ctx, service); err != nil {
		return fmt.Errorf("applying Service %s: %w", s.service, err)
	}
	o := newAPIService()
	o.Object["spec"] = map[string]any{
		"group": access.Group, "version": access.Version,
		"groupPriorityMinimum": int64(groupPriority), "versionPriority": int64(versionPriority),
		"service":  map[string]any{"namespace": s.service.Namespace, "name": s.service.Name, "port": int64(s.port)},
		"caBundle": authority,
	}
	if err := s.apply(ctx, o); err != nil {
		return fmt.Errorf("applying APIService %s: %w", apiServiceName, err)
	}
	return nil
}

// apply creates or updates an object by server-side apply.
func (s *Server) apply(ctx context.Context, o *unstructured.Unstructured) error {
	return s.o.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), fieldOwner, client.ForceOwnership)
}

// unregister deletes an APIService that register has created. ctx has no deadline.
func (s *Server) unregister(ctx context.Context) error {
	if !s.registersItself() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := s.o.Client.Delete(ctx, newAPIService()); client.IgnoreNotFound(err) != nil {
		// The cluster may have been stopped before the manager.
		s.o.Log.Info("Left the access API registered", "apiService", apiServiceName, "error", err.Error())
	}
	return nil
}
