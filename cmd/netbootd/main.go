// SPDX-License-Identifier: Apache-2.0

// Command netbootd is the network boot server inside the provisioning VM: DHCP,
// TFTP, HTTP, DNS and NTP on the lab interface, and the netboot API for the manager. This
// package contains only flags and wiring.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd"
	"github.com/pxelab/pxelab/internal/version"
)

type flags struct {
	stateDir       string
	credentialsDir string
	listen         string
	httpPort       uint
	tftpPort       uint
	dnsPort        uint
	ntpPort        uint
	verbose        bool
	showVersion    bool
}

func main() {
	var f flags
	flag.StringVar(&f.stateDir, "state-dir", "/var/lib/netbootd", "directory for configuration, observations and uploaded content")
	flag.StringVar(&f.credentialsDir, "credentials-dir", "/etc/netbootd", "directory with ca.crt, server.crt and server.key")
	flag.StringVar(&f.listen, "listen", ":8443", "address of the netboot API")
	flag.UintVar(&f.httpPort, "http-port", 80, "HTTP port on the lab address")
	flag.UintVar(&f.tftpPort, "tftp-port", 69, "TFTP port on the lab address")
	flag.UintVar(&f.dnsPort, "dns-port", 53, "DNS port on the lab address")
	flag.UintVar(&f.ntpPort, "ntp-port", 123, "NTP port on the lab address")
	flag.BoolVar(&f.verbose, "v", false, "log at debug level")
	flag.BoolVar(&f.showVersion, "version", false, "print the version and exit")
	flag.Parse()
	if f.showVersion {
		fmt.Println(version.Digest())
		return
	}
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: dropTime}))
	if err := run(f, log); err != nil {
		log.Error("netbootd failed", "error", err)
		os.Exit(1)
	}
}

// dropTime removes the time from log records, because the journal adds it.
func dropTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func run(f flags, log *slog.Logger) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if max(f.httpPort, f.tftpPort, f.dnsPort, f.ntpPort) > 65535 {
		return errors.New("ports must be at most 65535")
	}
	debug.SetGCPercent(netbootd.GCPercent)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(netbootd.MemoryLimit)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	credentials := map[string][]byte{}
	for _, name := range []string{netbootapi.FileCA, netbootapi.FileServerCrt, netbootapi.FileServerKey} {
		raw, err := os.ReadFile(filepath.Join(f.credentialsDir, name))
		if err != nil {
			return fmt.Errorf("reading credentials: %w", err)
		}
		credentials[name] = raw
	}
	seed := netbootapi.ServerCredentials{
		CA:  credentials[netbootapi.FileCA],
		Crt: credentials[netbootapi.FileServerCrt],
		Key: credentials[netbootapi.FileServerKey],
	}
	notify := newNotifier(os.Getenv("NOTIFY_SOCKET"), log)
	server, err := netbootd.New(netbootd.Options{
		StateDir: f.stateDir, Version: version.Digest(), APIAddress: f.listen, Seed: seed,
		HTTPPort: uint16(f.httpPort), TFTPPort: uint16(f.tftpPort), DNSPort: uint16(f.dnsPort), NTPPort: uint16(f.ntpPort),
		Log: log, Alive: func() { notify.send("WATCHDOG=1") },
	})
	if err != nil {
		return err
	}
	log.Info("serving the netboot API", "address", server.APIAddr(), "version", version.Digest())
	notify.send("READY=1")
	defer notify.send("STOPPING=1")
	return server.Serve(ctx)
}

// notifier reports the service's state to systemd (sd_notify(3)). Without a
// socket it does nothing.
type notifier struct {
	socket *net.UnixAddr
	failed sync.Once
	log    *slog.Logger
}

func newNotifier(path string, log *slog.Logger) *notifier {
	n := &notifier{log: log}
	if path != "" {
		// A leading "@" denotes an abstract socket in Go as in systemd.
		n.socket = &net.UnixAddr{Name: path, Net: "unixgram"}
	}
	return n
}

func (n *notifier) send(state string) {
	if n.socket == nil {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, n.socket)
	if err == nil {
		_, err = conn.Write([]byte(state))
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		n.failed.Do(func() { n.log.Error("notifying systemd", "state", state, "error", err) })
	}
}
