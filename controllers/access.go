// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/plan"
)

// Dialer connects to machines through their provisioning server; session.Hub
// implements it.
type Dialer interface {
	Dial(ctx context.Context, server string, address netip.AddrPort) (net.Conn, error)
}

// Access resolves the machines that users request. It implements access.Backend and
// access.HostBackend.
type Access struct {
	Client client.Reader
	Host   *Host
	Dialer Dialer
	// Set has observed the objects.
	Set *Set
}

var (
	_ access.Backend     = (*Access)(nil)
	_ access.HostBackend = (*Access)(nil)
)

// DialSSH implements access.Backend.
func (a *Access) DialSSH(ctx context.Context, m access.Ref) (net.Conn, error) {
	if m.Kind == access.Server {
		return a.dialServer(ctx, m)
	}
	target := &v1alpha1.BareMetalTarget{}
	if err := a.get(ctx, m, m.Name, target); err != nil {
		return nil, err
	}
	server := &v1alpha1.ProvisioningServer{}
	if err := a.get(ctx, m, target.Spec.ProvisioningServerRef.Name, server); err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddr(target.BootNICStatus().Address())
	if err != nil {
		return nil, fmt.Errorf("%w: target %s has no address yet: %s", access.ErrUnavailable, m.Name, target.Status.Message)
	}
	conn, err := a.Dialer.Dial(ctx, string(server.UID), netip.AddrPortFrom(addr, plan.SSHPort))
	if err != nil {
		return nil, fmt.Errorf("%w: target %s is %s: %w", access.ErrUnavailable, m.Name, target.Status.Phase, err)
	}
	return conn, nil
}

func (a *Access) dialServer(ctx context.Context, m access.Ref) (net.Conn, error) {
	server := &v1alpha1.ProvisioningServer{}
	if err := a.get(ctx, m, m.Name, server); err != nil {
		return nil, err
	}
	state, err := a.Host.Machines.Observe(ctx, string(server.UID))
	if err != nil {
		return nil, err
	}
	address, err := forwardedAddress(state, plan.SSHPort)
	if err != nil {
		return nil, fmt.Errorf("%w: server %s is %s: %s", access.ErrUnavailable, m.Name, server.Status.Phase, server.Status.Message)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", access.ErrUnavailable, err)
	}
	return conn, nil
}

// SerialSocket implements access.Backend.
func (a *Access) SerialSocket(ctx context.Context, m access.Ref) (string, error) {
	uid, err := a.uid(ctx, m)
	if err != nil {
		return "", err
	}
	_, paths, err := a.Host.observe(ctx, uid)
	return paths.Serial, err
}

// SerialLog implements access.Backend.
func (a *Access) SerialLog(ctx context.Context, m access.Ref) (string, error) {
	uid, err := a.uid(ctx, m)
	return a.Host.paths(uid).SerialLog, err
}

// Capacity implements access.Backend.
func (a *Access) Capacity(ctx context.Context) (access.Capacity, error) {
	return a.Host.Capacity.report(ctx)
}

// Unobserved implements access.HostBackend.
func (a *Access) Unobserved(ctx context.Context) ([]access.Object, error) {
	return a.Set.unobserved(ctx, a.Client)
}

func (a *Access) uid(ctx context.Context, m access.Ref) (string, error) {
	var o client.Object = &v1alpha1.BareMetalTarget{}
	if m.Kind == access.Server {
		o = &v1alpha1.ProvisioningServer{}
	}
	err := a.get(ctx, m, m.Name, o)
	return string(o.GetUID()), err
}

func (a *Access) get(ctx context.Context, m access.Ref, name string, into client.Object) error {
	if watched := a.Host.Namespaces; len(watched) > 0 && !slices.Contains(watched, m.Namespace) {
		return fmt.Errorf("%w: the manager does not work in namespace %s; add it to --watch-namespaces", access.ErrNotFound, m.Namespace)
	}
	err := a.Client.Get(ctx, types.NamespacedName{Namespace: m.Namespace, Name: name}, into)
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: %s in namespace %s", access.ErrNotFound, strconv.Quote(name), m.Namespace)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}
