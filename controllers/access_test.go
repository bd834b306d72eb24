// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/access"
)

// dialer tells where it was asked to connect to.
type dialer struct {
	server  string
	address netip.AddrPort
	err     error
}

func (d *dialer) Dial(_ context.Context, server string, address netip.AddrPort) (net.Conn, error) {
	d.server, d.address = server, address
	here, there := net.Pipe()
	_ = there.Close()
	return here, d.err
}

func TestAccess(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	d := &dialer{}
	a := &controllers.Access{Client: cluster.client, Dialer: d, Host: &controllers.Host{Machines: l.machines, DataDir: l.data, RuntimeDir: l.runtime}}
	ref := access.Ref{Kind: access.Target, Namespace: l.ns, Name: "target-1"}

	conn, err := a.DialSSH(l.ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if d.server != string(l.server("lab").UID) || d.address.String() != target.Status.Address+":22" {
		t.Errorf("dialled %s through %s", d.address, d.server)
	}
	d.err = errors.New("no route")
	if _, err := a.DialSSH(l.ctx, ref); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("a machine that does not answer: %v", err)
	}
	if log, err := a.SerialLog(l.ctx, ref); err != nil || log != filepath.Join(l.machineDir(target), "serial.log") {
		t.Errorf("serial log %s, %v", log, err)
	}
	if socket, err := a.SerialSocket(l.ctx, ref); err != nil || socket != target.Status.Consoles.SerialSocket {
		t.Errorf("serial socket %s, %v", socket, err)
	}
	ref.Name = "nobody"
	_, ssh := a.DialSSH(l.ctx, ref)
	_, log := a.SerialLog(l.ctx, ref)
	if !errors.Is(ssh, access.ErrNotFound) || !errors.Is(log, access.ErrNotFound) {
		t.Errorf("a machine that nobody declared: %v, %v", ssh, log)
	}
}

// The tests' manager has the generated role and nothing else.
func TestTheManagerIsNobodySpecial(t *testing.T) {
	c, err := client.New(cluster.manager, client.Options{Scheme: cluster.scheme})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.List(t.Context(), &corev1.PodList{}); !apierrors.IsForbidden(err) {
		t.Errorf("it may list pods: %v", err)
	}
	target := newTarget("target-1")
	target.Namespace = "default"
	if err := c.Delete(t.Context(), target); !apierrors.IsForbidden(err) {
		t.Errorf("it may delete targets: %v", err)
	}
}
