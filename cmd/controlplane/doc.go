// SPDX-License-Identifier: Apache-2.0

// Command controlplane is Kubernetes in one program: the API of a lab that has
// no cluster, and every component by its own name, which it behaves as when it
// is called so.
//
//	controlplane serve --data-dir DIR --kubeconfig FILE [--port N]
//	controlplane etcd|kube-apiserver|kubectl [ARGUMENTS]
//	ln -s controlplane kubectl && ./kubectl get namespaces
//
// The name comes from argv[0] or, when that is no applet's name, from the first
// argument; without either it is serve. On Linux there are also
// kube-controller-manager, kube-scheduler, kube-proxy, kubelet and kubeadm, so
// that this one program is all the Kubernetes that a node image needs
// (hack/kind/node) and a machine compiles it once. They add a third to the file
// and next to nothing to serve's memory and start. The tables in applets.go and
// applets_linux.go are the only places to touch for one more component.
//
// # serve
//
// serve runs etcd and kube-apiserver in this process together with the two
// controllers that an API without nodes still needs: the one that collects
// objects whose owner is gone, and the one that finishes deleted namespaces.
// There are no nodes, no scheduler and no workload controllers, so the groups
// that only make sense with those (apps, batch, and so on) are not served and a
// Deployment is refused instead of being accepted and never run. OpenAPI is
// served in version 3.
//
// It listens on 127.0.0.1 with TLS only and lets in nobody without a client
// certificate or a service-account token; authorization is RBAC. etcd has no
// TCP port at all: it is reached over a UNIX socket in a directory that only
// its owner can enter. --data-dir holds
//
//	lock              held while serving; a second instance on DIR refuses
//	port              the port of the first start, taken again by later ones
//	pki/              own CA, serving, admin and service-account keys (0700/0600)
//	etcd/             the objects (etcd.new/ for moments of the first start)
//
// Certificates that end within 30 days are renewed at start, as are keys that
// somebody else could have read. The admin kubeconfig appears, atomically and
// with mode 0600, when /readyz says ok. An older one is removed at start and a
// file that serve did not write is never touched; whoever starts serve and waits
// for the file removes it first, or asks /readyz, because the old one is there
// for a moment more. SIGTERM and SIGINT stop it
// with status 0; what was acknowledged to a client survives any kind of end,
// kill -9 included.
//
// # envtest
//
// A directory with links named etcd, kube-apiserver and kubectl to this program
// serves as KUBEBUILDER_ASSETS. These applets are the unmodified upstream
// commands with all API groups.
//
// # Module
//
// This directory is a module of its own because k8s.io/kubernetes v1.36 and the
// newer client libraries of the main module cannot be in one build list. A cold
// build takes minutes; hack/controlplane/build.sh caches the result. It does
// not import the main module, and the main module only runs the binary.
package main
