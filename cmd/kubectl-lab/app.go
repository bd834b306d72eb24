// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/version"
)

// app holds what the subcommands share.
type app struct {
	streams genericiooptions.IOStreams
	config  *genericclioptions.ConfigFlags
	// newClient is replaced by tests.
	newClient func() (client.Client, error)
}

func newApp() *app {
	a := &app{
		streams: genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
		config:  genericclioptions.NewConfigFlags(true),
	}
	a.newClient = a.clusterClient
	return a
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "kubectl-lab",
		Short: "Access the machines of a pxelab lab",
		Long: `Access the machines of a pxelab lab.

MACHINE is TARGET or target/TARGET for a BareMetalTarget, and server/NAME for a
ProvisioningServer.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version.String(),
	}
	root.SetOut(a.streams.Out)
	root.SetErr(a.streams.ErrOut)
	root.SetVersionTemplate("{{.Version}}\n")
	a.config.AddFlags(root.PersistentFlags())
	root.AddCommand(a.sshCommand(), a.sshConfigCommand(), a.proxyCommand(), a.consoleCommand(), a.logsCommand(), a.timelineCommand(),
		a.capacityCommand())
	return root
}

// clusterClient returns a client of the cluster's objects.
func (a *app) clusterClient() (client.Client, error) {
	config, err := a.restConfig()
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme})
}

// namespace returns the --namespace flag, or the kubeconfig's namespace.
func (a *app) namespace() (string, error) {
	if n := *a.config.Namespace; n != "" {
		return n, nil
	}
	n, _, err := a.config.ToRawKubeConfigLoader().Namespace()
	return n, err
}

// machine parses a MACHINE argument.
func (a *app) machine(arg string) (access.Ref, error) {
	ref := access.Ref{Kind: access.Target, Name: arg}
	if kind, name, found := strings.Cut(arg, "/"); found {
		ref.Name = name
		switch strings.ToLower(kind) {
		case "target", "targets", "bmt", "baremetaltarget", "baremetaltargets":
		case "server", "servers", "psrv", "provisioningserver", "provisioningservers":
			ref.Kind = access.Server
		default:
			return access.Ref{}, fmt.Errorf("%q is not a machine: use TARGET, target/TARGET or server/NAME", arg)
		}
	}
	if ref.Name == "" || strings.ContainsAny(ref.Name, "/ \t\n") {
		return access.Ref{}, fmt.Errorf("%q is not a machine: use TARGET, target/TARGET or server/NAME", arg)
	}
	var err error
	ref.Namespace, err = a.namespace()
	return ref, err
}

// complete offers the machines whose names have the typed prefix.
func (a *app) complete(kinds ...access.Kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		none := cobra.ShellCompDirectiveNoFileComp
		c, err := a.newClient()
		if err != nil {
			return nil, none
		}
		namespace, err := a.namespace()
		if err != nil {
			return nil, none
		}
		var names []string
		for _, kind := range kinds {
			names = append(names, machineNames(cmd.Context(), c, namespace, kind)...)
		}
		var matching []string
		for _, name := range names {
			if strings.HasPrefix(name, typed) {
				matching = append(matching, name)
			}
		}
		return matching, none
	}
}

func machineNames(ctx context.Context, c client.Client, namespace string, kind access.Kind) []string {
	var names []string
	if kind == access.Server {
		var servers v1alpha1.ProvisioningServerList
		if c.List(ctx, &servers, client.InNamespace(namespace)) == nil {
			for _, s := range servers.Items {
				names = append(names, "server/"+s.Name)
			}
		}
		return names
	}
	var targets v1alpha1.BareMetalTargetList
	if c.List(ctx, &targets, client.InNamespace(namespace)) == nil {
		for _, t := range targets.Items {
			names = append(names, t.Name)
		}
	}
	return names
}

// explain adds a remedy to the errors that new users meet first.
func explain(err error) error {
	var transport *url.Error
	var connection *net.OpError
	switch {
	case errors.Is(err, access.ErrNoManager):
		return fmt.Errorf("%w; start the manager with \"make up\", or see \"kubectl get apiservice %s.%s\"", err, access.Version, access.Group)
	case meta.IsNoMatchError(err):
		return fmt.Errorf("the cluster has no pxelab CRDs: %w; check that the kubeconfig names the lab's cluster", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; docs/security.md lists the roles that allow it", err)
	case errors.As(err, &transport), errors.As(err, &connection):
		return fmt.Errorf("connecting to the cluster: %w; check the lab with \"make status\" or start it with \"make up\"", err)
	}
	return err
}
