// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// record is one line of a watch. The records of one Update are followed by one with
// End.
type record struct {
	Server *State `json:"server,omitempty"`
	// Machine is the UID of a machine that has State now, or that was removed if
	// State is nil.
	Machine string        `json:"machine,omitempty"`
	State   *MachineState `json:"state,omitempty"`
	End     *recordEnd    `json:"end,omitempty"`
}

// recordEnd completes an Update.
type recordEnd struct {
	Snapshot bool   `json:"snapshot,omitempty"`
	Position string `json:"position"`
}

// WriteUpdate writes an Update as a sequence of records, each with one Write. A machine
// whose record would exceed MaxMachineBytes is sent as if nothing was observed of it,
// because it must not affect the others; its UID is returned in tooLarge. After an error
// of w the stream is incomplete and must be abandoned.
func WriteUpdate(w io.Writer, u Update) (tooLarge []string, err error) {
	if u.Server != nil {
		if err := writeRecord(w, record{Server: u.Server}); err != nil {
			return nil, err
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(u.Machines)) {
		err := writeRecord(w, record{Machine: uid, State: u.Machines[uid]})
		if errors.Is(err, errTooLarge) {
			tooLarge = append(tooLarge, uid)
			err = writeRecord(w, record{Machine: uid})
		}
		if err != nil {
			return tooLarge, err
		}
	}
	return tooLarge, writeRecord(w, record{End: &recordEnd{u.Snapshot, u.Position.String()}})
}

var errTooLarge = errors.New("the record is too large")

func writeRecord(w io.Writer, r record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the state: %w", err)
	}
	line = append(line, '\n')
	if len(line) > r.limit() {
		return fmt.Errorf("encoding the state: %w: %d bytes", errTooLarge, len(line))
	}
	_, err = w.Write(line)
	return err
}

// limit returns the maximum size of the record in bytes.
func (r record) limit() int {
	if r.Server != nil {
		return MaxServerBytes
	}
	return MaxMachineBytes
}

// UpdateReader reads what WriteUpdate wrote. The stream may be hostile: a reader holds
// at most MaxServerBytes and MaxMachines times MaxMachineBytes of it. It is not safe for
// concurrent use.
type UpdateReader struct{ r *bufio.Reader }

// NewUpdateReader reads a stream from its start.
func NewUpdateReader(r io.Reader) *UpdateReader {
	return &UpdateReader{bufio.NewReaderSize(r, 16<<10)}
}

// Read blocks until an Update is complete and returns it. heard, if not nil, is called
// after each record. The end of the stream is io.EOF, or io.ErrUnexpectedEOF within an
// Update. After an error the stream is unusable.
func (r *UpdateReader) Read(heard func()) (Update, error) {
	u := Update{Machines: map[string]*MachineState{}}
	for first := true; ; first = false {
		line, err := readLine(r.r, MaxServerBytes)
		if errors.Is(err, io.EOF) && !first {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Update{}, err
		}
		complete, err := u.add(line)
		if err != nil {
			return Update{}, fmt.Errorf("decoding the state: %w", err)
		}
		if heard != nil {
			heard()
		}
		if complete {
			return u, nil
		}
	}
}

// add adds a record and reports whether it completes the Update.
func (u *Update) add(line []byte) (complete bool, err error) {
	var in record
	if err := json.Unmarshal(line, &in); err != nil {
		return false, err
	}
	switch {
	case len(line) > in.limit():
		return false, fmt.Errorf("%w: %d bytes", errTooLarge, len(line))
	case in.Server != nil:
		u.Server = in.Server
		return false, nil
	case in.Machine != "":
		return false, u.addMachine(in.Machine, in.State)
	case in.End == nil:
		return false, fmt.Errorf("%w: a record is empty", ErrVersion)
	}
	u.Snapshot = in.End.Snapshot
	u.Position, err = ParsePosition(in.End.Position)
	return true, err
}

func (u *Update) addMachine(uid string, state *MachineState) error {
	if !ValidUID(uid) {
		return errors.New("the UID of a machine is malformed")
	}
	u.Machines[uid] = state
	if len(u.Machines) > MaxMachines {
		return fmt.Errorf("more than %d machines", MaxMachines)
	}
	return nil
}
