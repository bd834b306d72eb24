// SPDX-License-Identifier: Apache-2.0

package access

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"
)

// Capacity is what the machines of a host use at a time, and which wait to be started
// or installed.
type Capacity struct {
	// Memory is in bytes, with the machines' overhead.
	Memory Usage `json:"memory"`
	// Installations is the number of targets that are being installed.
	Installations Usage `json:"installations"`
	// Machines is the number of machines that run or are being started.
	Machines int64 `json:"machines"`
	// Waiting has the machines that wait, in the order of the queue: the first is next
	// unless a limit of its namespace holds it back.
	Waiting []Waiting `json:"waiting"`
}

// Usage is a part of a limit.
type Usage struct {
	Used int64 `json:"used"`
	// Limit is 0 if there is none.
	Limit int64 `json:"limit"`
}

// Waiting is a machine that waits.
type Waiting struct {
	Kind      Kind   `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Reason and Message are those of the object's condition.
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}

// Print writes the capacity as text: two lines of figures, and the first machines of the
// queue, at most most.
func (c Capacity) Print(w io.Writer, most int) error {
	fmt.Fprintf(w, "%d machines, %s\n", c.Machines, c.Memory.format("of memory", mebibytes))
	fmt.Fprintf(w, "%s\n", c.Installations.format("installations", func(n int64) string { return strconv.FormatInt(n, 10) }))
	if len(c.Waiting) == 0 {
		return nil
	}
	fmt.Fprintf(w, "%d waiting:\n", len(c.Waiting))
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "POSITION\tMACHINE\tREASON\tSINCE\tMESSAGE")
	for i, m := range c.Waiting[:min(most, len(c.Waiting))] {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\n", i+1, Ref{m.Namespace, m.Kind, m.Name}, m.Reason, m.Since.Local().Format(time.DateTime), m.Message)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if more := len(c.Waiting) - most; more > 0 {
		fmt.Fprintf(w, "and %d more; \"kubectl-lab capacity\" lists all\n", more)
	}
	return nil
}

func (u Usage) format(what string, number func(int64) string) string {
	if u.Limit == 0 {
		return fmt.Sprintf("%s %s", number(u.Used), what)
	}
	return fmt.Sprintf("%s of at most %s %s", number(u.Used), number(u.Limit), what)
}

func mebibytes(n int64) string { return strconv.FormatInt((n+1<<20-1)>>20, 10) + " MiB" }
