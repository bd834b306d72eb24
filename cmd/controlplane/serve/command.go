// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"

	"github.com/pxelab/pxelab/cmd/controlplane/internal/datadir"
)

// Main runs the serve applet: it parses args, serves until SIGTERM or SIGINT and
// returns the exit status. A second signal kills the process.
func Main(args []string) int {
	opts, err := parse(args, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "controlplane serve:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)

	quietLibraries(opts.Verbose)
	if err := Run(ctx, opts); err != nil {
		fmt.Fprintln(os.Stderr, "controlplane serve:", err)
		return 1
	}
	return 0
}

func parse(args []string, out io.Writer) (Options, error) {
	var opts Options
	flags := flag.NewFlagSet("controlplane serve", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&opts.DataDir, "data-dir", "", "directory for keys and objects; created if missing (required)")
	flags.StringVar(&opts.Kubeconfig, "kubeconfig", "", "file to which the admin's kubeconfig is written once ready (required)")
	flags.IntVar(&opts.Port, "port", 0, fmt.Sprintf(
		"TCP port on 127.0.0.1; 0 selects the port of the previous start, or %d or any free port at the first", datadir.PreferredPort))
	flags.BoolVar(&opts.Verbose, "verbose", false, "log all messages of the Kubernetes libraries, not only errors")
	if err := flags.Parse(args); err != nil {
		return Options{}, err
	}
	if flags.NArg() > 0 {
		return Options{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	opts.Log = slog.New(slog.NewTextHandler(out, nil))
	return opts, opts.validate()
}

// quietLibraries limits klog to errors unless verbose: a healthy start logs
// hundreds of lines, warnings included, that are of no use to a lab's user.
func quietLibraries(verbose bool) {
	if verbose {
		return
	}
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{
		"logtostderr":     "false",
		"stderrthreshold": "ERROR",
	} {
		if err := flags.Set(name, value); err != nil {
			panic(err) // only if klog drops one of these flags
		}
	}
	klog.SetOutput(io.Discard)
}
