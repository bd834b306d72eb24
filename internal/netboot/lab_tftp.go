// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/ipxe"
	"github.com/pxelab/pxelab/internal/tftp"
)

// openTFTP serves a declared machine its network boot program, the script that
// the program looks for, and nothing else to anybody.
func (l *lab) openTFTP(_ context.Context, name string, client netip.AddrPort) (tftp.File, error) {
	k := l.server.keeper
	m := k.machineByAddr(client.Addr().Unmap())
	d := k.decide(Asker{Machine: m})
	switch {
	case m == nil:
		k.refuse("TFTPUnknownClient")
		return tftp.File{}, fs.ErrPermission
	case d.Program != nil && name == ipxe.AutoexecName:
		return tftp.BytesFile([]byte(ipxe.Autoexec(m.MAC, l.renderer.scriptURL(&l.network, m)))), nil
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
	k := l.server.keeper
	m := k.machineByAddr(e.Client.Addr().Unmap())
	if m == nil || programName(k, m) != e.Name {
		return
	}
	_ = k.update(m, func(s *agent.MachineState) error {
		sawTFTP(s, e, k.now().UTC())
		return nil
	})
}

func programName(k *keeper, m *agent.Machine) string {
	if d := k.decide(Asker{Machine: m}); d.Program != nil {
		return d.Program.Name
	}
	return ""
}
