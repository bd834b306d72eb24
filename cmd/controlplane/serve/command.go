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

// Main is the serve applet: it parses args, serves until SIGTERM or SIGINT and
// returns the exit status. A second signal kills at once.
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
	flags.StringVar(&opts.DataDir, "data-dir", "", "directory that holds keys and objects; made when absent (required)")
	flags.StringVar(&opts.Kubeconfig, "kubeconfig", "", "file to write the admin's kubeconfig to when ready (required)")
	flags.IntVar(&opts.Port, "port", 0, fmt.Sprintf("TCP port on 127.0.0.1; 0 takes the one of the last start, at first %d or any free one", datadir.PreferredPort))
	flags.BoolVar(&opts.Verbose, "verbose", false, "log all that the Kubernetes libraries say, not only their errors")
	if err := flags.Parse(args); err != nil {
		return Options{}, err
	}
	if flags.NArg() > 0 {
		return Options{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	opts.Log = slog.New(slog.NewTextHandler(out, nil))
	return opts, opts.validate()
}

// quietLibraries keeps klog to errors unless verbose: a healthy start logs some
// hundred lines, warnings among them, that tell a user of the lab nothing.
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
			panic(err) // only when klog drops one of its own flags
		}
	}
	klog.SetOutput(io.Discard)
}
