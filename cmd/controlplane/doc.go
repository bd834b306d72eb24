// SPDX-License-Identifier: Apache-2.0

// Command controlplane is a multi-call binary that contains Kubernetes: the
// embedded control plane of a lab without a cluster, and the Kubernetes
// components, each of which runs when the binary is invoked by its name.
//
//	controlplane serve --data-dir DIR --kubeconfig FILE [--port N]
//	controlplane etcd|kube-apiserver|kubectl [ARGUMENTS]
//	ln -s controlplane kubectl && ./kubectl get namespaces
//
// The applet is selected by argv[0] or, when that is not an applet's name, by
// the first argument; the default is serve. On Linux the applets also include
// kube-controller-manager, kube-scheduler, kube-proxy, kubelet and kubeadm, so
// that this program is all of Kubernetes on a node image (images/kind-node) and a
// machine compiles it once. They add a third to the file size and next to
// nothing to serve's memory and start time. A new component is added to the
// tables in applets.go and applets_linux.go.
//
// # serve
//
// serve runs etcd and kube-apiserver in this process, together with the two
// controllers that an API without nodes still needs: the garbage collector,
// which deletes objects whose owner is gone, and the namespace controller,
// which completes the deletion of namespaces. There are no nodes, no scheduler
// and no workload controllers, so the API groups that depend on them (apps,
// batch, and so on) are disabled, and a Deployment is rejected instead of being
// accepted and never run. OpenAPI is served in version 3 only.
//
// The API server listens on 127.0.0.1 with TLS only and requires a client
// certificate or a service-account token; authorization is RBAC. The aggregation layer is
// enabled for the manager's access API. etcd has no
// TCP port: it listens on a UNIX socket in a directory that only its owner can
// enter. --data-dir contains
//
//	lock              locked while serving; a second instance on DIR fails to start
//	port              the port of the first start, used again by later starts
//	pki/              CAs, serving, admin, front-proxy and service-account keys (0700/0600)
//	etcd/             the objects (etcd.new/ exists briefly during the first start)
//
// At start, certificates that expire within 30 days are renewed, and so are
// keys whose file mode let other users read them. The admin kubeconfig is
// written, atomically and with mode 0600, once /readyz reports ok. An existing
// one is removed at start; a file that serve did not write is never changed. A
// caller that waits for the file must remove it before starting serve, or poll
// /readyz, because the old file exists until serve removes it. SIGTERM and
// SIGINT stop serve with exit status 0. Acknowledged writes survive any kind of
// termination, kill -9 included.
//
// # envtest
//
// A directory with links named etcd, kube-apiserver and kubectl to this program
// can be used as KUBEBUILDER_ASSETS. These applets are the unmodified upstream
// commands with all API groups.
//
// # Module
//
// This directory is a separate module because k8s.io/kubernetes v1.36 and the
// newer client libraries of the main module cannot share a build list. A cold
// build takes minutes; cmd/controlplane/build.sh caches the result. This
// module does not import the main module, and the main module only executes
// the binary.
package main
