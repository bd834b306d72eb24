// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"path/filepath"
	"strings"
)

// Paths are the files of one machine.
type Paths struct {
	// Dir holds what must survive a reboot of the host: disk, variable store,
	// logs, the Runner's record. Mode 0700.
	Dir string `json:"dir"`
	// Sockets holds the UNIX sockets and nothing else. Its path is short. Mode 0700.
	Sockets string `json:"sockets"`

	// Record is what a Runner remembers of the machine.
	Record string `json:"record"`
	// Vars is the machine's UEFI variable store; empty for a simulated machine.
	Vars string `json:"vars"`
	// Log is the output of the machine's process, which simulated machines share.
	Log string `json:"log"`
	// SerialLog is all that the guest wrote on its first serial port, appended
	// to over restarts.
	SerialLog string `json:"serialLog"`

	// QMP, Serial and VNC are sockets. A simulated machine has only Serial.
	QMP    string `json:"qmp"`
	Serial string `json:"serial"`
	VNC    string `json:"vnc"`
}

// UnusableSuffix is appended to the path of a damaged record when a Runner sets it aside.
const UnusableSuffix = ".unusable"

// NewPaths is the layout of a machine's files below the lab's data directory
// and its runtime directory. It touches no file.
func NewPaths(dataDir, runtimeDir, id string) Paths {
	dir := filepath.Join(dataDir, "machines", id)
	sockets := filepath.Join(runtimeDir, shortID(id))
	return Paths{
		Dir:       dir,
		Sockets:   sockets,
		Record:    filepath.Join(dir, "qemu.json"),
		Vars:      filepath.Join(dir, "efivars"),
		Log:       filepath.Join(dir, "qemu.log"),
		SerialLog: filepath.Join(dir, "serial.log"),
		QMP:       filepath.Join(sockets, "qmp.sock"),
		Serial:    filepath.Join(sockets, "serial.sock"),
		VNC:       filepath.Join(sockets, "vnc.sock"),
	}
}

// NewSimulatedPaths is NewPaths for a simulated machine, which has no QMP, no screen and
// no firmware variables.
func NewSimulatedPaths(dataDir, runtimeDir, id string) Paths {
	p := NewPaths(dataDir, runtimeDir, id)
	p.Record = filepath.Join(p.Dir, "simulator.json")
	p.Log = filepath.Join(dataDir, "logs", "simulator.log")
	p.Vars, p.QMP, p.VNC = "", "", ""
	return p
}

// shortID is the first 48 bits of a UUID: short enough for socket paths, and
// never shared by two machines of one host in practice.
func shortID(id string) string {
	digits := strings.ReplaceAll(id, "-", "")
	return digits[:min(12, len(digits))]
}
