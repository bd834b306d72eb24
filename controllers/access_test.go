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

// dialer records where it was asked to connect to.
type dialer struct {
	server  string
	address netip.AddrPort
	err     error
}

func (d *dialer) Dial(_ context.Context, server string, address netip.AddrPort) (net.Conn, error) {
	d.server = server
	d.address = address
	here, there := net.Pipe()
	_ = there.Close()
	return here, d.err
}

func TestAccess(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	d := &dialer{}
	a := &controllers.Access{
		Client: cluster.client, Dialer: d,
		Host: &controllers.Host{Machines: l.machines, DataDir: l.data, RuntimeDir: l.runtime},
	}
	ref := access.Ref{Kind: access.Target, Namespace: l.ns, Name: "target-1"}

	conn, err := a.DialSSH(l.ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if want := string(l.server("lab").UID); d.server != want {
		t.Errorf("DialSSH: got a connection through server %s, want %s", d.server, want)
	}
	if got, want := d.address.String(), target.BootNICStatus().Address()+":22"; got != want {
		t.Errorf("DialSSH: got a connection to %s, want %s", got, want)
	}
	d.err = errors.New("no route")
	if _, err := a.DialSSH(l.ctx, ref); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("DialSSH to a machine that does not respond: got error %v, want %v", err, access.ErrUnavailable)
	}
	want := filepath.Join(l.machineDir(target), "serial.log")
	if log, err := a.SerialLog(l.ctx, ref); err != nil || log != want {
		t.Errorf("SerialLog: got %s, error %v, want %s", log, err, want)
	}
	want = target.Status.Consoles.SerialSocket
	if socket, err := a.SerialSocket(l.ctx, ref); err != nil || socket != want {
		t.Errorf("SerialSocket: got %s, error %v, want %s", socket, err, want)
	}
	ref.Name = "missing"
	if _, err := a.DialSSH(l.ctx, ref); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("DialSSH to a target that does not exist: got error %v, want %v", err, access.ErrNotFound)
	}
	if _, err := a.SerialLog(l.ctx, ref); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("SerialLog of a target that does not exist: got error %v, want %v", err, access.ErrNotFound)
	}
}

// The tests' manager has the generated role and nothing else.
func TestManagerHasOnlyItsRole(t *testing.T) {
	c, err := client.New(cluster.manager, client.Options{Scheme: cluster.scheme})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.List(t.Context(), &corev1.PodList{}); !apierrors.IsForbidden(err) {
		t.Errorf("listing pods: got error %v, want it to be forbidden", err)
	}
	target := newTarget("target-1")
	target.Namespace = "default"
	if err := c.Delete(t.Context(), target); !apierrors.IsForbidden(err) {
		t.Errorf("deleting a target: got error %v, want it to be forbidden", err)
	}
}
