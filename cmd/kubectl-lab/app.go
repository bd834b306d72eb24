// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
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
	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/version"
)

// app holds what the subcommands share.
type app struct {
	streams genericiooptions.IOStreams
	config  *genericclioptions.ConfigFlags
	socket  string
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
	root.PersistentFlags().StringVar(&a.socket, "manager-socket", "",
		"UNIX socket of the manager (default: the manager in the cluster, else the one of your lab under $"+paths.EnvRuntime+")")
	root.AddCommand(a.sshCommand(), a.sshConfigCommand(), a.proxyCommand(), a.consoleCommand(), a.logsCommand(), a.timelineCommand(),
		a.capacityCommand())
	return root
}

// clusterClient returns a client of the cluster that kubectl would use, or of the
// lab's embedded control plane for a user without a kubeconfig.
func (a *app) clusterClient() (client.Client, error) {
	if *a.config.KubeConfig == "" && os.Getenv("KUBECONFIG") == "" && !kubeconfigInHome() {
		if dirs, err := paths.Default(); err == nil {
			if _, err := os.Stat(dirs.Kubeconfig()); err == nil {
				*a.config.KubeConfig = dirs.Kubeconfig()
			}
		}
	}
	config, err := a.config.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("loading the kubeconfig: %w; start the lab with \"make up\", then export KUBECONFIG=$(make -s kubeconfig)", err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme})
}

func kubeconfigInHome() bool {
	home, err := os.UserHomeDir()
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(home, ".kube", "config"))
	return err == nil
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
	var answer *access.Error
	var transport *url.Error
	switch {
	case errors.As(err, &answer):
		return err
	case errors.Is(err, access.ErrNoManager):
		return fmt.Errorf("%w; check the lab with \"make status\" or start it with \"make up\"", err)
	case meta.IsNoMatchError(err):
		return fmt.Errorf("the cluster has no pxelab CRDs: %w; check that the kubeconfig names the lab's cluster", err)
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return err
	case errors.As(err, &transport):
		return fmt.Errorf("connecting to the cluster: %w; check the lab with \"make status\" or start it with \"make up\"", err)
	}
	return err
}
