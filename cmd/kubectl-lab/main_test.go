// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

func TestTimeline(t *testing.T) {
	noon := time.Date(2026, 7, 1, 12, 0, 0, 0, time.Local)
	at := func(seconds float64) metav1.MicroTime {
		return metav1.NewMicroTime(noon.Add(time.Duration(seconds * float64(time.Second))))
	}
	ready := v1alpha1.BareMetalTarget{ObjectMeta: metav1.ObjectMeta{Name: "target-1"}}
	ready.Status.Timeline = []v1alpha1.PhaseRecord{
		{Phase: v1alpha1.TargetPending, StartedAt: at(-30), Seconds: "30.0"},
		{Phase: v1alpha1.TargetPXE, StartedAt: at(0), Seconds: "24.1"},
		{Phase: v1alpha1.TargetInstalling, StartedAt: at(24.1), Seconds: "12.0"},
		{Phase: v1alpha1.TargetBooting, StartedAt: at(36.1), Seconds: "50.4"},
		{Phase: v1alpha1.TargetReady, StartedAt: at(86.5)},
	}
	running := v1alpha1.BareMetalTarget{ObjectMeta: metav1.ObjectMeta{Name: "t2"}}
	running.Status.Timeline = []v1alpha1.PhaseRecord{{Phase: v1alpha1.TargetPXE, StartedAt: at(90)}}
	unseen := v1alpha1.BareMetalTarget{ObjectMeta: metav1.ObjectMeta{Name: "t3"}}

	var out bytes.Buffer
	if err := printTimelines(&out, []v1alpha1.BareMetalTarget{ready, running, unseen}, noon.Add(100*time.Second)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.TrimRight(line, " \n"))
	}
	want := []string{
		"TARGET     PHASE               SINCE      SECONDS",
		"target-1   Pending             11:59:30   30.0",
		"           PXE                 12:00:00   24.1",
		"           Installing          12:00:24   12.0",
		"           Booting             12:00:36   50.4",
		"           Ready               12:01:26   -",
		"           power-on to Ready              86.5",
		"t2         PXE                 12:01:30   10.0 so far",
		"t3         -",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("timeline differs (-want +got):\n%s", diff)
	}
}

func TestPlainWriter(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"text":                         {"tab\tümlaut\r\n", "tab\tümlaut\n"},
		"colour":                       {"\x1b[1;31mred\x1b[0m plain", "red plain"},
		"clear screen":                 {"\x1b[2J\x1b[01;01H\x1b=\x1b%Gtext", "text"},
		"title":                        {"\x1b]0;evil title\x07text\x1b]2;more\x1b\\text", "texttext"},
		"character set":                {"\x1b(Btext", "text"},
		"aborted sequence":             {"\x1b[12\nnext \x1b]0;endless\nnext", "\nnext \nnext"},
		"escape inside a sequence":     {"\x1b\x1b[1mtext\x1b[1\x1b[2mtext", "texttext"},
		"control characters":           {"a\x07\x00b\x7f", "ab"},
		"token":                        {"http://10.88.0.1//m/Ab-_9/kernel... ok", "http://10.88.0.1//m/.../kernel... ok"},
		"8-bit control sequence":       {"a\u009b2Jb\u009b1;31mc", "abc"},
		"8-bit control string":         {"a\u009d52;c;aGk=\u009cb\u0090q\x07c", "abc"},
		"other 8-bit controls":         {"a\u0085b\u008ec\u0080", "abc"},
		"characters that reorder text": {"a\u202eb\u2066c\u200fd\u061ce", "abcde"},
		"letters of other scripts":     {"größe 高さ 😀", "größe 高さ 😀"},
		"bytes that are not UTF-8":     {"a\x9b2Jb\xc3(\xffc\xe2\x80\nd", "a2Jb(c\nd"},
		"token with colour":            {"/m/Ab\x1b[1m9\x1b[0m end", "/m/... end"},
		"path resembling the token":    {"/mnt/m /m/", "/mnt/m /m/..."},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var whole, bytewise bytes.Buffer
			fmt.Fprint(&plainWriter{to: &whole}, tt.in)
			w := &plainWriter{to: &bytewise}
			for i := range len(tt.in) {
				fmt.Fprint(w, tt.in[i:i+1])
			}
			if got := whole.String(); got != tt.want {
				t.Errorf("in one write: got %q, want %q", got, tt.want)
			}
			if got := bytewise.String(); got != tt.want {
				t.Errorf("in single bytes: got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLogs(t *testing.T) {
	l := newLab(t)
	if err := os.WriteFile(filepath.Join(l.dirs.Data, "serial.log"), []byte("\x1b[2JBdsDxe\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, err := l.run(t, "", "logs", "server/lab"); err != nil || out != "BdsDxe\n" {
		t.Errorf("logs: got %q, error %v, want \"BdsDxe\\n\"", out, err)
	}
	if out, _, err := l.run(t, "", "logs", "--raw", "target-1"); err != nil || out != "\x1b[2JBdsDxe\r\n" {
		t.Errorf("logs --raw: got %q, error %v, want the file unchanged", out, err)
	}
}

func TestConsole(t *testing.T) {
	l := newLab(t)
	qemu, err := net.Listen("unix", filepath.Join(l.dirs.Runtime, "serial.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer qemu.Close()
	typed := make(chan string, 2)
	go func() {
		for {
			c, err := qemu.Accept()
			if err != nil {
				return
			}
			buffer := make([]byte, 64)
			n, _ := c.Read(buffer)
			typed <- string(buffer[:n])
			// The machine keeps the console open until the client has gone.
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()

	// Input after the detach key is not sent to the machine.
	_, errOut, err := l.run(t, "ls\r\x1dexit", "console", "target-1")
	if err != nil || !strings.Contains(errOut, "Detached from target default/target-1") {
		t.Errorf("console: got %q, error %v, want a message about detaching", errOut, err)
	}
	if got := <-typed; got != "ls\r" {
		t.Errorf("machine received %q, want %q", got, "ls\r")
	}
}

func TestCompletion(t *testing.T) {
	l := newLab(t)
	for args, want := range map[string]string{"ssh ": "target-1\n", "timeline t": "target-1\n", "ssh x": ""} {
		command, typed, _ := strings.Cut(args, " ")
		out, _, err := l.run(t, "", "__complete", command, typed)
		if got, _, _ := strings.Cut(out, ":"); err != nil || got != want {
			t.Errorf("completing %q: got %q, error %v, want %q", args, got, err, want)
		}
	}
}

func TestCapacity(t *testing.T) {
	l := newLab(t)
	out, _, err := l.run(t, "", "capacity")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2 machines, 3584 MiB of at most 4096 MiB", "1 of at most 8 installations", "target default/target-2", "HostFull"} {
		if !strings.Contains(out, want) {
			t.Errorf("got %q, want it to contain %q", out, want)
		}
	}
}
