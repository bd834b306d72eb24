// SPDX-License-Identifier: Apache-2.0

package qemutest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"sync"
	"time"
)

// guest is the machine of a fake process.
type guest struct {
	dir         string
	commandLine commandLine
	// ended is closed when QEMU has been asked to quit.
	ended chan struct{}
	end   sync.Once

	mu       sync.Mutex
	runState string
	client   *json.Encoder // nil while no client is ready for events
	powerOff *time.Timer
}

// request is a QMP command with the arguments of all commands that the fake knows.
type request struct {
	Execute   string `json:"execute"`
	ID        uint64 `json:"id"`
	Arguments struct {
		Path        string `json:"path"`
		Property    string `json:"property"`
		Value       int    `json:"value"`
		CommandLine string `json:"command-line"`
	} `json:"arguments"`
}

// response is a reply to a request.
type response struct {
	Return any      `json:"return,omitempty"`
	Error  *refusal `json:"error,omitempty"`
	ID     uint64   `json:"id"`
}

// refusal is why a command was not executed.
type refusal struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// event is what happened in the fake process.
type event struct {
	Event     string    `json:"event"`
	Data      eventData `json:"data"`
	Timestamp struct {
		Seconds int64 `json:"seconds"`
	} `json:"timestamp"`
}

type eventData struct {
	Guest  bool   `json:"guest"`
	Reason string `json:"reason,omitempty"`
	Action string `json:"action,omitempty"`
}

type (
	empty  struct{}
	status struct {
		Status string `json:"status"`
	}
	identity struct {
		UUID string `json:"UUID"`
	}
	guestName struct {
		Name string `json:"name"`
	}
	block struct {
		Inserted struct {
			File string `json:"file"`
		} `json:"inserted"`
	}
	property struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
)

func (g *guest) faults() Faults { return faultsOf(g.dir, g.commandLine.uuid) }

func (g *guest) hangs(step string) bool {
	hang := g.faults().Hang
	return slices.Contains(hang, step) || slices.Contains(hang, "*")
}

// serve accepts QMP clients one at a time, as QEMU does.
func (g *guest) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		g.talk(conn)
		g.mu.Lock()
		g.client = nil
		g.mu.Unlock()
		conn.Close()
	}
}

// talk serves one client until the connection ends.
func (g *guest) talk(conn net.Conn) {
	time.Sleep(g.faults().Delay)
	g.hangWhile("greeting")
	const greeting = `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 0}, "package": "fake"}, "capabilities": []}}`
	if _, err := io.WriteString(conn, greeting+"\n"); err != nil {
		return
	}
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var r request
		if err := in.Decode(&r); err != nil {
			return
		}
		time.Sleep(g.faults().Delay)
		g.hangWhile(r.Execute)
		g.mu.Lock()
		answer := g.execute(r, out)
		err := out.Encode(answer)
		g.mu.Unlock()
		if err != nil {
			return
		}
		if r.Execute == "quit" {
			g.end.Do(func() { close(g.ended) })
			return
		}
	}
}

// hangWhile blocks as long as the faults require it. A process that hangs executes
// nothing else, so the step that hangs is continued when the fault is removed.
func (g *guest) hangWhile(step string) {
	for g.hangs(step) {
		time.Sleep(10 * time.Millisecond)
	}
}

// execute executes a command. The caller holds mu and sends the reply, which follows
// the events that the command causes.
func (g *guest) execute(r request, out *json.Encoder) response {
	refuse := func(class, format string, args ...any) response {
		return response{ID: r.ID, Error: &refusal{class, fmt.Sprintf(format, args...)}}
	}
	answer := func(result any) response { return response{ID: r.ID, Return: result} }
	switch r.Execute {
	case "qmp_capabilities":
		g.client = out
	case "query-status":
		return answer(status{g.runState})
	case "query-uuid":
		return answer(identity{g.commandLine.uuid})
	case "query-name":
		return answer(guestName{g.commandLine.name})
	case "query-block":
		return answer(g.blocks())
	case "qom-list":
		return answer(g.peripherals())
	case "cont":
		switch g.runState {
		case "shutdown", "guest-panicked", "internal-error":
			return refuse("GenericError", "Resetting the Virtual Machine is required")
		}
		g.run()
	case "stop":
		g.stop("paused")
	case "system_reset":
		g.reset()
	case "system_powerdown":
		g.emit("POWERDOWN", eventData{})
		if g.faults().PowerButton {
			g.shutDown()
		}
	case "quit":
		g.emit("SHUTDOWN", eventData{Reason: "host-qmp-quit"})
	case "qom-set":
		return g.setBootIndex(r, answer, refuse)
	case "human-monitor-command":
		if r.Arguments.CommandLine == "info usernet" {
			return answer(g.commandLine.usernet())
		}
		g.port(r.Arguments.CommandLine)
		return answer("")
	default:
		return refuse("CommandNotFound", "The command %s has not been found", r.Execute)
	}
	return answer(empty{})
}

// blocks returns the block devices, none of which has failed.
func (g *guest) blocks() []block {
	blocks := make([]block, len(g.commandLine.files))
	for i, file := range g.commandLine.files {
		blocks[i].Inserted.File = file
	}
	return blocks
}

// peripherals returns the devices that have an ID.
func (g *guest) peripherals() []property {
	all := []property{}
	for id, driver := range g.commandLine.drivers {
		all = append(all, property{id, "child<" + driver + ">"})
	}
	return all
}

func (g *guest) setBootIndex(r request, answer func(any) response, refuse func(string, string, ...any) response) response {
	id, index := path.Base(r.Arguments.Path), r.Arguments.Value
	if _, ok := g.commandLine.bootIndex[id]; !ok {
		return refuse("DeviceNotFound", "Device '%s' not found", id)
	}
	if r.Arguments.Property != "bootindex" {
		return refuse("GenericError", "Property '%s' not found", r.Arguments.Property)
	}
	for other, used := range g.commandLine.bootIndex {
		if used == index && index > 0 && other != id {
			return refuse("GenericError", "The bootindex %d has already been used", index)
		}
	}
	g.commandLine.bootIndex[id] = index
	return answer(empty{})
}

// port executes the guest's write to a port.
func (g *guest) port(command string) {
	switch command {
	case "o /w 0x604 0x2000": // PM1a_CNT.SLP_EN for S5
		g.shutDown()
	case "o /b 0x505 1": // pvpanic
		action := "run"
		if g.commandLine.panicPauses {
			action = "pause"
		}
		g.emit("GUEST_PANICKED", eventData{Action: action})
		if g.commandLine.panicPauses {
			g.stop("guest-panicked")
		}
	}
}

func (g *guest) resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.run()
}

// run lets the guest execute. The caller holds mu.
func (g *guest) run() {
	first := g.runState == "prelaunch"
	g.runState = "running"
	g.emit("RESUME", eventData{})
	f := g.faults()
	if first && !f.NoSerial {
		g.boot()
	}
	if f.PowerOffAfter > 0 {
		g.powerOff = time.AfterFunc(f.PowerOffAfter, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.shutDown()
		})
	}
}

// stop ends the execution of the guest. The caller holds mu.
func (g *guest) stop(runState string) {
	if g.powerOff != nil {
		g.powerOff.Stop()
	}
	g.runState = runState
	g.emit("STOP", eventData{})
}

// shutDown is the guest's power-off: the process stays until it is asked to quit. The
// caller holds mu.
func (g *guest) shutDown() {
	if g.runState != "running" {
		return
	}
	g.emit("SHUTDOWN", eventData{Guest: true, Reason: "guest-shutdown"})
	g.stop("shutdown")
}

// reset starts the guest again. One that was stopped for good waits for "cont", as in
// QEMU. The caller holds mu.
func (g *guest) reset() {
	if g.runState != "running" {
		g.runState = "prelaunch"
	} else {
		g.boot()
	}
	g.emit("RESET", eventData{Reason: "host-qmp-system-reset"})
}

// boot prints the device that the firmware boots from. The caller holds mu.
func (g *guest) boot() {
	first, least := "nothing", 0
	for id, index := range g.commandLine.bootIndex {
		if index > 0 && (least == 0 || index < least) {
			first, least = id, index
		}
	}
	g.print("fake firmware boots " + first + "\r\n")
}

// print appends to the serial log.
func (g *guest) print(text string) {
	f, err := os.OpenFile(g.commandLine.serialLog, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteString(text)
}

// emit sends an event to the client, if there is one. The caller holds mu.
func (g *guest) emit(name string, data eventData) {
	if g.client == nil {
		return
	}
	e := event{Event: name, Data: data}
	e.Timestamp.Seconds = time.Now().Unix()
	_ = g.client.Encode(e)
}
