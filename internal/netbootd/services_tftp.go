// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/pxelab/pxelab/internal/bootconfig/ipxe"
	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/tftp"
)

// tftpBlockSize returns the largest block that reaches a client unfragmented: firmware and
// iPXE receive frames of at most 1500 bytes, whatever the MTU of the lab, less the IP, UDP
// and TFTP headers (RFC 2348).
func tftpBlockSize(n *netbootapi.Network) int {
	mtu := 1500
	if n.MTU > 0 {
		mtu = min(mtu, n.MTU)
	}
	return mtu - 20 - 8 - 4
}

// openTFTP serves a declared machine its network boot program and the program's
// autoexec script. It refuses other requests.
func (l *lab) openTFTP(_ context.Context, name string, client netip.AddrPort) (tftp.File, error) {
	k := l.server.state
	m := k.machineByAddr(client.Addr().Unmap())
	d := k.decide(policy.Client{Machine: m})
	switch {
	case m == nil:
		k.refuse("TFTPUnknownClient")
		return tftp.File{}, fs.ErrPermission
	case d.Program != nil && name == ipxe.AutoexecName:
		k.counters.sawRendering(ipxe.AutoexecName, nil)
		return tftp.BytesFile([]byte(ipxe.Autoexec(m.MAC, l.renderer.ScriptURL(l.network.Load(), d)))), nil
	case d.Program == nil || d.Program.Name != name:
		k.refuse("TFTPUnknownFile")
		return tftp.File{}, fs.ErrNotExist
	}
	f, err := l.server.blobs.open(d.Program.Blob.Digest)
	if err != nil {
		return tftp.File{}, err
	}
	return fileOf(f)
}

func fileOf(f *os.File) (tftp.File, error) {
	info, err := f.Stat()
	if err != nil {
		return tftp.File{}, errors.Join(err, f.Close())
	}
	return tftp.File{ReaderAt: f, Size: info.Size(), Close: f.Close}, nil
}

func (l *lab) tftpEvent(e tftp.Event) {
	k := l.server.state
	client := e.Client.Addr().Unmap()
	m := k.machineByAddr(client)
	k.record(m, netbootapi.Event{
		Kind: netbootapi.EventTFTP, Address: client.String(), Name: e.Name,
		Detail: strings.TrimSpace(fmt.Sprintf("%s, %d of %d bytes %s", e.Kind, e.Bytes, e.Size, e.Err)),
	})
	program := programName(k, m)
	k.counters.sawTFTP(e, program)
	if m == nil || program != e.Name {
		return
	}
	_ = k.update(m, func(s *netbootapi.MachineState) error {
		sawTFTP(s, e, k.now().UTC())
		return nil
	})
}

func programName(k *stateStore, m *netbootapi.Machine) string {
	if d := k.decide(policy.Client{Machine: m}); d.Program != nil {
		return d.Program.Name
	}
	return ""
}
