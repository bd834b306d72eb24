// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// connectTo prints "open" if a TCP connection is established from the machine's address
// source, or from any if it is empty, else "closed". Every target has Python, which
// cloud-init needs.
const connectTo = `sudo python3 -c '
import socket
try:
    socket.create_connection(("%s", %d), 5, ("%s", 0) if "%[3]s" else None)
    print("open")
except OSError:
    print("closed")
'`

// hostileTarget checks what root in a target reaches: nothing on the host's loopback, no
// link-local address, and nothing with the address of another target.
func hostileTarget(t *testing.T, l *lab) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan string, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			select {
			case accepted <- conn.RemoteAddr().String():
			default:
			}
			_ = conn.Close()
		}
	}()
	defer func() {
		_ = listener.Close()
		<-ended
	}()
	port := listener.Addr().(*net.TCPAddr).Port
	serverName := l.serverName(t)
	server := l.provisioningServer(t, serverName)
	victim := l.target(t, "target-2").BootNICStatus().Address()
	spoof := fmt.Sprintf("dev=$(ip -o route get %[1]s | sed 's/.* dev \\([^ ]*\\).*/\\1/'); sudo ip addr add %[2]s/32 dev $dev; ", server.Status.Address, victim) +
		fmt.Sprintf(connectTo, server.Status.Address, 80, victim) + fmt.Sprintf("; sudo ip addr del %s/32 dev $dev", victim)
	names := []string{"netbootd", "the host's loopback", "the metadata service of a cloud", "netbootd from another target's address"}
	want := []string{"open", "closed", "closed", "closed"}
	got := l.sshEach(t, "target-1",
		fmt.Sprintf(connectTo, server.Status.Address, 80, ""),
		fmt.Sprintf(connectTo, "10.0.2.2", port, ""),
		fmt.Sprintf(connectTo, "169.254.169.254", 80, ""),
		spoof)
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("connection to %s: got %q, want %s", names[i], got[i], want[i])
		}
	}
	select {
	case from := <-accepted:
		t.Errorf("a listener on the host's loopback accepted a connection from %s, want none", from)
	default:
	}
	counted := func(f v1alpha1.RefusedFrames) bool { return f.Target == "target-1" && f.ForeignAddress > 0 }
	for deadline := time.Now().Add(guestLimit); !slices.ContainsFunc(server.Status.Network.RefusedFrames, counted); {
		if time.Now().After(deadline) {
			t.Fatalf("got refused frames %+v, want those of target-1 with a foreign address", server.Status.Network.RefusedFrames)
		}
		time.Sleep(time.Second)
		server = l.provisioningServer(t, serverName)
	}
	if hostname := l.ssh(t, "target-2", "hostname"); !strings.Contains(hostname, "target-2") {
		t.Errorf("got host name %q of the victim, want target-2", hostname)
	}
}

func (l *lab) provisioningServer(t *testing.T, name string) *v1alpha1.ProvisioningServer {
	t.Helper()
	server := &v1alpha1.ProvisioningServer{}
	if err := l.client.Get(t.Context(), client.ObjectKey{Namespace: l.namespace, Name: name}, server); err != nil {
		t.Fatal(err)
	}
	return server
}
