// SPDX-License-Identifier: Apache-2.0

package datadir

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/pxelab/pxelab/cmd/controlplane/internal/atomicfile"
)

// PreferredPort is the port that a first start uses if it is free.
const PreferredPort = 16443

// Listener is a TCP listener on 127.0.0.1.
type Listener struct{ *net.TCPListener }

// Port returns the bound port.
func (l *Listener) Port() int { return l.Addr().(*net.TCPAddr).Port }

// Listen binds the port asked for, or the port remembered in file, or
// PreferredPort, or any free port, and records it in file. A remembered port
// that is in use is an error, because existing kubeconfigs name it.
func Listen(file string, asked int) (*Listener, error) {
	remembered, err := readPort(file)
	if err != nil {
		return nil, err
	}
	var l *Listener
	switch {
	case asked != 0:
		l, err = bind(asked)
	case remembered != 0:
		if l, err = bind(remembered); err != nil {
			err = fmt.Errorf("%w; this control plane has used this port since its first start: free it, or change it with --port", err)
		}
	default:
		if l, err = bind(PreferredPort); errors.Is(err, syscall.EADDRINUSE) {
			l, err = bind(0)
		}
	}
	if err != nil {
		return nil, err
	}
	if l.Port() == remembered {
		return l, nil
	}
	if err := atomicfile.Write(file, fmt.Appendf(nil, "%d\n", l.Port()), 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func bind(port int) (*Listener, error) {
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		return nil, fmt.Errorf("listening for API clients: %w", err)
	}
	return &Listener{l}, nil
}

// readPort returns 0 if file does not exist.
func readPort(file string) (int, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the port of the last start: %w", err)
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%s contains %q, which is not a port; remove the file to have a port chosen", file, data)
	}
	return int(port), nil
}
