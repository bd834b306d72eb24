// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
)

func serverAttachment(s *v1alpha1.ProvisioningServer, n plan.Network, p qemu.Paths) labnet.Attachment {
	return labnet.Attachment{
		Network: string(s.UID), Mode: labnet.Mode(n.Mode), MTU: n.MTU, Bridge: n.Bridge,
		Machine: string(s.UID), Sockets: p.Sockets, MAC: plan.MAC(string(s.UID), plan.DeviceLab), Server: true,
	}
}

// attach plugs the server into its network, makes the network suffer what is
// declared, and shows what became of that and of those who misbehave on it.
func (r *ProvisioningServerReconciler) attach(ctx context.Context, w *serverWork) (qemu.Backend, error) {
	s, uid := w.server, string(w.server.UID)
	backend, err := r.Host.Networks.Attach(serverAttachment(s, w.network, w.paths))
	if err != nil {
		return qemu.Backend{}, fmt.Errorf("attaching the server to its network: %w", err)
	}
	i := w.network.Impairment
	r.Host.Networks.Impair(uid, labnet.Impairment{Loss: i.Loss, Latency: i.Delay, Jitter: i.Jitter})

	frames, err := r.refusedFrames(ctx, s)
	if err != nil {
		return qemu.Backend{}, err
	}
	requests := r.Host.Sessions.Observe(uid).State.Refused
	var news []string
	s.Status.Network, news = plan.NetworkStatus(s.Status.Network, i, frames, requests, r.Host.Now())
	if len(news) > 0 {
		// One Event for all: of several that differ in nothing but their text the
		// recorder keeps the first and a count.
		tell(r.Events, s, corev1.EventTypeWarning, v1alpha1.ReasonFramesRefused, "Protect", strings.Join(news, "; "))
	}
	return backend, nil
}

// refusedFrames names the machines whose frames the network refused.
func (r *ProvisioningServerReconciler) refusedFrames(ctx context.Context, s *v1alpha1.ProvisioningServer) ([]v1alpha1.RefusedFrames, error) {
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
		// A machine that is not listed any more is being taken away.
		if name, known := names[o.Machine]; known {
			out = append(out, v1alpha1.RefusedFrames{
				Target: name, ForeignMAC: int64(o.ForeignMAC), DHCPServer: int64(o.DHCPServer), RouterAdvertisement: int64(o.Router),
			})
		}
	}
	return out, nil
}
