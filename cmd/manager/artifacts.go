// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/qemuimg"
)

const (
	// envAllowCIDR has the ranges of --artifact-allow-cidr, separated by commas, for a
	// manager that "make up" starts.
	envAllowCIDR = "PXELAB_ARTIFACT_ALLOW_CIDR"
	// envCluster is set in each pod by Kubernetes.
	envCluster = "KUBERNETES_SERVICE_HOST"
)

// artifactFlags adds the flags that control where artifacts are downloaded from. In a
// cluster, those who write profiles are not those who run the manager, and private
// addresses are those of the cluster.
func artifactFlags(n *artifact.Network) error {
	n.AllowPrivate = os.Getenv(envCluster) == ""
	allow := func(text string) error {
		prefix, err := parseRange(text)
		if err == nil {
			n.Allow = append(n.Allow, prefix)
		}
		return err
	}
	flag.Func("artifact-allow-cidr", "range of addresses, such as 10.1.0.0/16, that URLs of artifacts may lead to although they are "+
		"loopback, link-local or, in a pod, private addresses; repeatable, in addition to those of "+envAllowCIDR, allow)
	flag.StringVar(&n.CAFile, "artifact-ca-file", "", "PEM file of certificate authorities that downloads trust in addition to the system's")
	for text := range strings.SplitSeq(os.Getenv(envAllowCIDR), ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if err := allow(text); err != nil {
			return fmt.Errorf("parsing %s: %w", envAllowCIDR, err)
		}
	}
	return nil
}

// parseRange parses a CIDR or a single address.
func parseRange(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a range such as 10.1.0.0/16 or 10.1.2.3", text)
	}
	return prefix.Masked(), nil
}

// reserve is the space that downloads leave free: a control plane with its data
// in the same file system must still be able to store that it is full.
const reserve = 64 << 20

func newLibrary(o options) (*content.Library, func() error, error) {
	store, err := artifact.Open(artifact.Options{
		Dir: filepath.Join(o.dirs.Data, "artifacts"), ImagesDir: o.imagesDir, Network: o.artifactNetwork, Reserve: reserve,
	})
	if err != nil {
		return nil, nil, err
	}
	disks, err := qemuimg.New(qemuimg.Options{})
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return content.New(content.Options{Store: store, Disks: disks, ImagesDir: o.imagesDir, ProgramsDir: o.programsDir}), store.Close, nil
}
