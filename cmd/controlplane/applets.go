// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"os"
	_ "time/tzdata" // CronJob time zones, which upstream's kube-apiserver embeds too

	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's auth plugins
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserverapp "k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/pxelab/pxelab/cmd/controlplane/internal/applet"
	"github.com/pxelab/pxelab/cmd/controlplane/serve"
)

// table returns the applets of this platform: the common ones and nodeApplets.
func table() applet.Table {
	t := applet.Table{
		"serve": {
			About: "Run the embedded control plane: etcd, kube-apiserver, garbage collector, namespace controller",
			Run:   serve.Main,
		},
		"etcd":           {About: "Run the unmodified etcd", Run: runEtcd},
		"kube-apiserver": {About: "Run the unmodified kube-apiserver", Run: runAPIServer},
		"kubectl":        {About: "Run the unmodified kubectl", Run: runKubectl},
	}
	maps.Copy(t, nodeApplets())
	t["help"] = applet.Applet{About: "List the commands", Run: func([]string) int {
		fmt.Println(t.Usage())
		return 0
	}}
	return t
}

func runEtcd([]string) int {
	etcdmain.Main(os.Args)
	return 0
}

func runAPIServer([]string) int {
	return cli.Run(apiserverapp.NewAPIServerCommand())
}

func runKubectl([]string) int {
	// Set the verbosity before building the command tree, as upstream does:
	// building it can already log.
	_, _ = logs.GlogSetter(kubectlcmd.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(kubectlcmd.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err) // prints and exits
	}
	return 0
}
