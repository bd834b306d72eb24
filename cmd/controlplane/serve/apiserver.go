// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"github.com/pxelab/pxelab/cmd/controlplane/internal/datadir"
	"github.com/pxelab/pxelab/cmd/controlplane/internal/pki"
)

type apiServerConfig struct {
	etcd     string
	listener *datadir.Listener
	keys     pki.Bundle
}

// flags returns kube-apiserver flags, so that its documentation applies.
func (c apiServerConfig) flags() []string {
	flags := []string{
		"--etcd-servers=" + c.etcd,
		// Set although the listener is given: without them kube-apiserver uses
		// the address of the default route, which a laptop may not have.
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", c.listener.Port()),
		"--tls-cert-file=" + c.keys.ServingCert,
		"--tls-private-key-file=" + c.keys.ServingKey,
		"--client-ca-file=" + c.keys.CACert,
		// For aggregated APIs, of which the manager serves one.
		"--requestheader-client-ca-file=" + c.keys.FrontProxyCACert,
		"--requestheader-allowed-names=" + pki.FrontProxyName,
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-uid-headers=X-Remote-Uid",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.keys.FrontProxyCert,
		"--proxy-client-key-file=" + c.keys.FrontProxyKey,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file=" + c.keys.ServiceAccountKey,
		"--service-account-key-file=" + c.keys.ServiceAccountKey,
		"--service-cluster-ip-range=10.96.0.0/24",
		"--authorization-mode=RBAC",
		"--anonymous-auth=false",
		// No other machine reaches this API server by the kubernetes Service.
		"--endpoint-reconciler-type=none",
		// One user and a few controllers need no fair queueing.
		"--enable-priority-and-fairness=false",
		// A request to delete a thousand objects ends within a request's 60 seconds.
		"--delete-collection-workers=8",
	}
	for _, plugin := range unusedAdmission {
		flags = append(flags, "--disable-admission-plugins="+plugin)
	}
	for _, group := range unusedGroups {
		flags = append(flags, "--runtime-config="+group+"=false")
	}
	return flags
}

// unusedAdmission lists the plugins that validate or complete objects of clusters
// with nodes. Those for namespaces, webhooks and admission policies stay enabled.
var unusedAdmission = []string{
	"DefaultIngressClass",
	"DefaultStorageClass",
	"DefaultTolerationSeconds",
	"LimitRanger",
	"PersistentVolumeClaimResize",
	"PodSecurity",
	"Priority",
	"ResourceQuota",
	"RuntimeClass",
	// It requires a default service account, which no controller creates here.
	"ServiceAccount",
	"StorageObjectInUseProtection",
	"TaintNodesByCondition",
}

// unusedGroups lists the APIs that depend on nodes, schedulers or workload
// controllers. Serving them would cost 45 MB of memory, and half a second of CPU
// time at each start.
var unusedGroups = []string{
	"apps/v1",
	"autoscaling/v1",
	"autoscaling/v2",
	"batch/v1",
	"flowcontrol.apiserver.k8s.io/v1",
	"node.k8s.io/v1",
	"policy/v1",
	"resource.k8s.io/v1",
	"scheduling.k8s.io/v1",
	"storage.k8s.io/v1",
}

// apiServer is a running kube-apiserver.
type apiServer struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid after done
}

// startAPIServer returns as soon as the API server is starting; /readyz reports
// when it is ready. It runs until stop, or until it fails, and then closes done.
func startAPIServer(ctx context.Context, c apiServerConfig) (*apiServer, error) {
	ctx, cancel := context.WithCancel(ctx)
	run, err := buildAPIServer(ctx, c)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("starting kube-apiserver: %w", err)
	}
	a := &apiServer{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		if a.err = run(ctx); a.err == nil {
			a.err = errors.New("kube-apiserver returned no error")
		}
	}()
	return a, nil
}

// buildAPIServer does what the upstream command does between parsing its flags
// and running.
func buildAPIServer(ctx context.Context, c apiServerConfig) (run func(context.Context) error, err error) {
	o := options.NewServerRunOptions()
	flags := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	for _, set := range o.Flags().FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(c.flags()); err != nil {
		return nil, err
	}
	if err := o.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return nil, err
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	o.SecureServing.Listener = c.listener
	completed, err := o.Complete(ctx)
	if err != nil {
		return nil, err
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return nil, utilerrors.NewAggregate(errs)
	}
	config, err := app.NewConfig(completed)
	if err != nil {
		return nil, err
	}
	dropOpenAPIV2(config)
	full, err := config.Complete()
	if err != nil {
		return nil, err
	}
	server, err := app.CreateServerChain(full)
	if err != nil {
		return nil, err
	}
	// Open watches never drain by themselves; do not wait a minute for them.
	server.GenericAPIServer.ShutdownTimeout = 2 * time.Second
	prepared, err := server.PrepareRun()
	if err != nil {
		return nil, err
	}
	return prepared.Run, nil
}

// dropOpenAPIV2 leaves only version 3, which all clients of the last three years
// request: version 2 is merged again after each change of a custom resource and
// costs 15 MB at rest. The API extensions server keeps its own small one, because
// without it that server does not publish version 3 either.
func dropOpenAPIV2(config *app.Config) {
	config.KubeAPIs.ControlPlane.Generic.OpenAPIConfig = nil
	config.Aggregator.GenericConfig.OpenAPIConfig = nil
}

// stop waits up to stopTimeout for requests in flight; acknowledged writes are
// in etcd already. It is idempotent.
func (a *apiServer) stop() {
	a.cancel()
	limit := time.NewTimer(stopTimeout)
	defer limit.Stop()
	select {
	case <-a.done:
	case <-limit.C:
	}
}
