// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/access/aggregation"
)

// accessFlags adds the flags of the access API.
func accessFlags(o *options) {
	flag.StringVar(&o.access, "access-bind-address", "",
		"address of the access API, HOST:PORT, which the cluster's API server connects to on behalf of kubectl-lab; empty disables it")
	flag.StringVar(&o.accessService, "access-service", "",
		"Service that selects the manager, NAMESPACE/NAME, and that APIService "+access.Version+"."+access.Group+
			" of the cluster refers to; empty lets the manager register --access-bind-address")
}

// checkAccess refuses names that are not a Service's.
func checkAccess(o options) error {
	namespace, name, found := strings.Cut(o.accessService, "/")
	switch {
	case o.accessService == "":
		return nil
	case !found || namespace == "" || name == "" || strings.Contains(name, "/"):
		return fmt.Errorf("--access-service=%s is not of the form NAMESPACE/NAME", o.accessService)
	case o.access == "":
		return fmt.Errorf("--access-service=%s requires --access-bind-address", o.accessService)
	default:
		return nil
	}
}

// addAccess makes the manager serve the host API and, if it is enabled, the access API.
func addAccess(mgr ctrl.Manager, o options, backend *controllers.Access) error {
	socket, err := access.ListenSocket(access.SocketOptions{
		Socket: o.dirs.ManagerSocket(), Backend: backend, Log: ctrl.Log.WithName("socket"),
	})
	if err != nil {
		return err
	}
	if err := mgr.Add(manager.RunnableFunc(socket.Serve)); err != nil || o.access == "" {
		return err
	}
	direct, err := client.New(mgr.GetConfig(), client.Options{Scheme: mgr.GetScheme()})
	if err != nil {
		return fmt.Errorf("connecting to the cluster: %w", err)
	}
	namespace, name, _ := strings.Cut(o.accessService, "/")
	server, err := aggregation.New(aggregation.Options{
		Client: direct, Backend: backend, Address: o.access, Namespace: o.lease,
		Service: types.NamespacedName{Namespace: namespace, Name: name}, Log: ctrl.Log.WithName("access"),
	})
	if err != nil {
		return err
	}
	return mgr.Add(server)
}
