// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/plan"
)

func serverAttachment(s *v1alpha1.ProvisioningServer, n plan.Network, p machine.Paths) labnet.Attachment {
	return labnet.Attachment{
		Network: string(s.UID), Mode: labnet.Mode(n.Mode), MTU: n.MTU, Bridge: n.Bridge,
		Machine: string(s.UID), Sockets: p.Sockets, MAC: plan.MAC(string(s.UID), plan.DeviceLab), Server: true,
		Addresses: addressesOf(n.Server.String()),
	}
}

// unchecked returns the checks of the switch that are switched off in a network.
func unchecked(n plan.Network) labnet.Unchecked {
	off := func(c v1alpha1.FrameCheck) bool { return slices.Contains(n.Unchecked, c) }
	return labnet.Unchecked{
		MACs: off(v1alpha1.CheckMACs), Addresses: off(v1alpha1.CheckAddresses), DHCPServers: off(v1alpha1.CheckDHCPServers),
		Routers: off(v1alpha1.CheckRouters), Rates: off(v1alpha1.CheckRates),
	}
}

// addressesOf parses the addresses of a machine.
func addressesOf(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil && addr.Is4() {
			out = append(out, addr)
		}
	}
	return out
}

// attach connects the server to its network, applies the network's impairment, and
// records the network's state and the refused frames in the status.
func (r *ProvisioningServerReconciler) attach(ctx context.Context, scope *serverScope) (machine.Backend, error) {
	s, uid := scope.server, string(scope.server.UID)
	backend, err := r.Host.Networks.Attach(serverAttachment(s, scope.network, scope.paths))
	if err != nil {
		return machine.Backend{}, fmt.Errorf("attaching the server to its network: %w", err)
	}
	i := scope.network.Impairment
	if scope.invalid == nil {
		r.Host.Networks.Impair(uid, labnet.Impairment{Loss: i.Loss, Latency: i.Delay, Jitter: i.Jitter})
	}

	frames, err := r.refusedFrames(ctx, s)
	if err != nil {
		return machine.Backend{}, err
	}
	requests := r.Host.Sessions.Observe(uid).State.Refused
	var news []string
	s.Status.Network, news = plan.NetworkStatus(s.Status.Network, i, frames, requests, r.Host.Now())
	if len(news) > 0 {
		// One Event for all: the recorder folds Events that differ only in their
		// text into the first, with a count.
		recordEvent(r.Events, s, event{corev1.EventTypeWarning, v1alpha1.ReasonFramesRefused, "Protect", strings.Join(news, "; ")})
	}
	return backend, nil
}

// refusedFrames returns the counts of the frames that the network refused, by machine.
func (r *ProvisioningServerReconciler) refusedFrames(
	ctx context.Context, s *v1alpha1.ProvisioningServer,
) ([]v1alpha1.RefusedFrames, error) {
	offenders := r.Host.Networks.Offenders(string(s.UID))
	if len(offenders) == 0 {
		return nil, nil
	}
	targets, err := r.targets(ctx, s)
	if err != nil {
		return nil, err
	}
	names := map[string]string{string(s.UID): ""}
	for i := range targets {
		names[string(targets[i].UID)] = targets[i].Name
	}
	var out []v1alpha1.RefusedFrames
	for _, o := range offenders {
		// A machine that is not listed is being removed.
		if name, known := names[o.Machine]; known {
			out = append(out, v1alpha1.RefusedFrames{
				Target: name, ForeignMAC: int64(o.ForeignMAC), DHCPServer: int64(o.DHCPServer), RouterAdvertisement: int64(o.Router),
				ForeignAddress: int64(o.ForeignAddress), DHCPClient: int64(o.DHCPClient), Excess: int64(o.Excess),
			})
		}
	}
	return out, nil
}
