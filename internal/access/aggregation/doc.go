// SPDX-License-Identifier: Apache-2.0

// Package aggregation makes the access API part of a cluster's API: it registers the
// manager with the API server's aggregation layer, reads which requests are the API
// server's, and asks the cluster what users may do.
//
// The registration is an APIService. In a cluster whose manifests contain it, with a
// Service that selects the manager's pod, the package only sets the APIService's
// certificate authority, which needs no other right. Otherwise it creates the APIService
// with a Service of type ExternalName for the address that the manager listens on, and
// deletes the APIService when the manager ends: an API server that does not reach an
// aggregated API lets clients know at each discovery.
package aggregation
