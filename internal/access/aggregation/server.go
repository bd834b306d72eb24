// SPDX-License-Identifier: Apache-2.0

package aggregation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/internal/access"
)

const (
	// refreshInterval is how often the API server's authority and the registration are
	// checked: the first changes when a cluster renews its certificates, the second when
	// its manifests are applied again.
	refreshInterval = time.Minute
	// retryInterval applies until both have succeeded once.
	retryInterval = 2 * time.Second
	// requestTimeout bounds each request to the cluster.
	requestTimeout = 15 * time.Second
)

// Options configures a [Server].
type Options struct {
	// Client must not read from a cache. Its scheme needs the core and authorization APIs.
	Client  client.Client
	Backend access.Backend
	// Address is the address to listen on, HOST:PORT. Unless Service is set, the cluster's
	// API server must reach HOST.
	Address string
	// Service is the Service of the cluster's manifests that selects the manager. If it is
	// empty, the server registers itself in Namespace.
	Service   types.NamespacedName
	Namespace string
	Log       logr.Logger
}

// Server serves the access API. It implements manager.Runnable.
type Server struct {
	o        Options
	service  types.NamespacedName
	port     int32
	host     string
	identity *access.Certificate
	server   *access.TLSServer
	// reported is the last failure that was logged.
	reported string
}

// serviceName is the name of the Service that a server creates for itself.
const serviceName = "pxelab-access"

// New binds the address. The caller must call Start.
func New(o Options) (*Server, error) {
	host, _, err := net.SplitHostPort(o.Address)
	if err != nil {
		return nil, fmt.Errorf("parsing the address of the access API: %w; use HOST:PORT", err)
	}
	s := &Server{o: o, service: o.Service, host: host}
	if s.registersItself() {
		s.service = types.NamespacedName{Namespace: o.Namespace, Name: serviceName}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			return nil, fmt.Errorf("the access API listens on %q: name the address at which the cluster's API server reaches this host, "+
				"or the Service that selects the manager", o.Address)
		} else if ip != nil && ip.To4() == nil {
			return nil, fmt.Errorf("the access API listens on %q: a Service can name an IPv4 address or a host name only", o.Address)
		}
	}
	// The name that the API server verifies.
	if s.identity, err = access.NewCertificate(s.service.Name + "." + s.service.Namespace + ".svc"); err != nil {
		return nil, err
	}
	if s.server, err = access.ListenTLS(o.Address, s.identity, o.Log); err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(s.server.Addr().String())
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseInt(port, 10, 32)
	s.port = int32(number)
	return s, err
}

func (s *Server) registersItself() bool { return s.o.Service == types.NamespacedName{} }

// Start serves until ctx ends. A cluster that has no aggregation layer, or that denies the
// manager access to its configuration, is reported in the log; the rest of the manager
// does not depend on the access API.
func (s *Server) Start(ctx context.Context) error {
	handler := access.NewHandler(access.HandlerOptions{
		Backend: s.o.Backend, Authenticator: s.server, Authorizer: Reviewer{s.o.Client}, Log: s.o.Log,
	})
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(ctx, handler) }()
	registered := false
	for {
		err := s.refresh(ctx)
		if ctx.Err() == nil {
			s.report(err)
		}
		if err == nil && !registered {
			registered = true
			s.o.Log.Info("Serving the access API", "address", s.server.Addr().String(), "service", s.service.String())
		}
		interval := retryInterval
		if registered {
			interval = refreshInterval
		}
		select {
		case err := <-served:
			// The manager's context ends at the same time.
			return errors.Join(err, s.unregister(context.WithoutCancel(ctx)))
		case <-time.After(interval):
		}
	}
}

// refresh reads the API server's configuration and registers the manager.
func (s *Server) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	config := &corev1.ConfigMap{}
	key := client.ObjectKey{Namespace: "kube-system", Name: "extension-apiserver-authentication"}
	if err := s.o.Client.Get(ctx, key, config); err != nil {
		return fmt.Errorf("reading how the API server identifies itself: %w", err)
	}
	trust, err := access.ParseRequestTrust(config.Data)
	if err != nil {
		return fmt.Errorf("reading how the API server identifies itself: %w", err)
	}
	s.server.Trust(trust)
	return s.register(ctx)
}

// report logs a failure once, until another one or success.
func (s *Server) report(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != s.reported && text != "" {
		s.o.Log.Info("The access API is not available; \"kubectl lab\" cannot reach machines", "error", text)
	}
	s.reported = text
}

// Reviewer asks the cluster by SubjectAccessReviews. It implements access.Authorizer.
type Reviewer struct{ Client client.Client }

// Authorize implements access.Authorizer.
func (r Reviewer) Authorize(ctx context.Context, u access.User, a access.Attributes) (allowed bool, reason string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: u.Name, UID: u.UID, Groups: u.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: access.Group, Version: access.Version, Verb: a.Verb, Namespace: a.Namespace,
			Resource: a.Resource, Subresource: a.Subresource, Name: a.Name,
		},
	}}
	if len(u.Extra) > 0 {
		review.Spec.Extra = map[string]authorizationv1.ExtraValue{}
		for key, values := range u.Extra {
			review.Spec.Extra[key] = values
		}
	}
	if err := r.Client.Create(ctx, review); err != nil {
		return false, "", fmt.Errorf("creating a SubjectAccessReview: %w", err)
	}
	return review.Status.Allowed, review.Status.Reason, nil
}
