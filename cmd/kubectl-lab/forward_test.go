// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/pxelab/pxelab/internal/access"
)

// podNetwork serves the port-forwarding API for a pod whose loopback network is
// this host's. It supports only SPDY, so that the fallback from WebSockets is
// tested as well.
func podNetwork(t *testing.T) *rest.Config {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want := "/api/v1/namespaces/pxelab-system/pods/manager-0/portforward"; r.URL.Path != want {
			t.Errorf("got request for %s, want %s", r.URL.Path, want)
		}
		if r.Method != http.MethodPost {
			http.Error(w, "no WebSockets here", http.StatusBadRequest)
			return
		}
		if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
			t.Error(err)
			return
		}
		streams := make(chan httpstream.Stream, 2)
		session := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
			streams <- s
			return nil
		})
		if session == nil {
			return
		}
		defer session.Close()
		failures, data := <-streams, <-streams
		upstream, err := net.Dial("tcp", "127.0.0.1:"+data.Headers().Get(corev1.PortHeader))
		if err != nil {
			_, _ = io.WriteString(failures, "error forwarding port: connection refused")
			failures.Close()
			data.Close()
			<-session.CloseChan()
			return
		}
		defer upstream.Close()
		go func() {
			_, _ = io.Copy(upstream, data)
			_ = upstream.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(data, upstream)
		data.Close()
		failures.Close()
		<-session.CloseChan()
	}))
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}
}

var managerPodName = types.NamespacedName{Namespace: managerNamespace, Name: "manager-0"}

func TestForward(t *testing.T) {
	l := newLab(t)
	server, err := access.New(access.Options{Socket: filepath.Join(l.dirs.Runtime, "pod.sock"), Loopback: "127.0.0.1:0", Backend: l})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	port := int(netip.MustParseAddrPort(server.Addrs()[1].String()).Port())
	config := podNetwork(t)
	manager := &access.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		return forward(ctx, config, managerPodName, port)
	}}
	target := access.Ref{Namespace: "default", Kind: access.Target, Name: "target-1"}

	log := strings.Repeat("BdsDxe\n", 100_000)
	if err := os.WriteFile(filepath.Join(l.dirs.Data, "serial.log"), []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	stream, err := manager.Log(t.Context(), target, access.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(stream)
	stream.Close()
	if err != nil || string(got) != log {
		t.Errorf("got %d bytes of log, error %v, want %d bytes", len(got), err, len(log))
	}

	conn, err := manager.SSH(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	greeting := make([]byte, 4)
	if _, err := io.ReadFull(conn, greeting); err != nil || string(greeting) != "SSH-" {
		t.Errorf("got %q from the SSH port, error %v, want \"SSH-\"", greeting, err)
	}
}

func TestForwardToClosedPort(t *testing.T) {
	config := podNetwork(t)
	conn, err := forward(t.Context(), config, managerPodName, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.ReadAll(conn); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got error %v, want the pod's \"connection refused\"", err)
	}
}

func TestFindManager(t *testing.T) {
	pod := func(phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: managerNamespace, Name: "manager-0", Labels: map[string]string{managerLabel: managerLabelValue},
			},
			Spec:   corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: accessPortName, ContainerPort: 9440}}}}},
			Status: corev1.PodStatus{Phase: phase},
		}
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("kubeconfig", "", "")
	flags.String("context", "kind-pxelab", "")
	flags.String("token", "secret", "")

	endpoint, err := managerPod(t.Context(), fake.NewClientBuilder().WithObjects(pod(corev1.PodRunning)).Build())
	if err != nil {
		t.Fatal(err)
	}
	if endpoint.pod != managerPodName {
		t.Errorf("running manager: got pod %v, want %v", endpoint.pod, managerPodName)
	}
	if endpoint.port != 9440 {
		t.Errorf("running manager: got port %d, want 9440", endpoint.port)
	}
	if diff := cmp.Diff([]string{"--context", "kind-pxelab"}, endpoint.arguments(flags)); diff != "" {
		t.Errorf("arguments for a pod differ (-want +got):\n%s", diff)
	}
	_, err = managerPod(t.Context(), fake.NewClientBuilder().WithObjects(pod(corev1.PodPending)).Build())
	if err == nil || !strings.Contains(err.Error(), "Pending") {
		t.Errorf("pending manager: got error %v, want one with the phase", err)
	}
	endpoint, err = managerPod(t.Context(), fake.NewClientBuilder().Build())
	if err != nil || endpoint != (managerEndpoint{}) {
		t.Errorf("no manager in the cluster: got %+v, error %v, want the zero value", endpoint, err)
	}
	if diff := cmp.Diff([]string{"--manager-socket", "/run/s"}, managerEndpoint{socket: "/run/s"}.arguments(flags)); diff != "" {
		t.Errorf("arguments for a socket differ (-want +got):\n%s", diff)
	}
}
