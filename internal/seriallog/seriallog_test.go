// SPDX-License-Identifier: Apache-2.0

package seriallog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestRealLogs diagnoses the output of real guests; testdata/README.md describes
// how each log was created.
func TestRealLogs(t *testing.T) {
	for name, want := range realLogs {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", "logs", name+".log"))
			if err != nil {
				t.Fatal(err)
			}
			got, found := Diagnose(text)
			if !found {
				t.Fatalf("Diagnose: got no finding, want %s", want.kind)
			}
			if got.Kind != want.kind {
				t.Errorf("got kind %s, want %s", got.Kind, want.kind)
			}
			if got.Ended != want.ended {
				t.Errorf("got ended %t, want %t", got.Ended, want.ended)
			}
			if !strings.Contains(got.Explanation, want.explains) {
				t.Errorf("got explanation %q, want %q", got.Explanation, want.explains)
			}
			if !strings.Contains(strings.Join(got.Lines, "\n"), want.shows) {
				t.Errorf("got lines\n%s\nwant %q", strings.Join(got.Lines, "\n"), want.shows)
			}
			check(t, got)
			t.Logf("%s: %s\n  %s", got.Kind, got.Explanation, strings.Join(got.Lines, "\n  "))
		})
	}
	files, err := filepath.Glob("testdata/logs/*.log")
	if err != nil || len(files) != len(realLogs) {
		t.Errorf("got %d logs (error %v), want %d as in the table", len(files), err, len(realLogs))
	}
}

type want struct {
	kind     Kind
	ended    bool
	explains string
	shows    string
}

var realLogs = map[string]want{
	"ipxe-404":   {IPXEError, false, `at its step "kernel": it was not found`, "Not found (https://ipxe.org/2d0c618e)"},
	"ipxe-reset": {IPXEError, false, "the connection was reset", "Connection reset (https://ipxe.org/0f0a6095)"},
	"ipxe-exec":  {IPXEError, false, "it cannot be executed", "Exec format error"},
	"cloudinit-script": {
		CloudInitFailed, false, "cloud-init failed in its module scripts_user: correct the user-data",
		"Running module scripts_user",
	},
	"ovmf-no-offer":       {NoOffer, false, "no usable DHCP answer came", "PXE-E18: Server response timeout"},
	"ssh-masked":          {LoginPrompt, false, "does the user-data switch it off", "Login Prompts"},
	"ovmf-bad-offer":      {NoOffer, false, "no usable DHCP answer came", "PXE-E18: Server response timeout"},
	"ovmf-no-boot-server": {NoOffer, false, "no valid DHCP offer came", "Station IP address is 192.168.89.10"},
	"ovmf-tftp-abort":     {TransferFailed, false, "it has no such file, or it aborted", "Downloading NBP file..."},
	"ovmf-tftp-silent":    {TransferFailed, false, "the TFTP server stopped answering", "PXE-E18: Server response timeout"},
	"ovmf-tftp-notfound": {
		TransferFailed, false, "it has no such file, or it aborted",
		"PXE-E23: Client received TFTP error from server",
	},
	"panic-rdinit":            {KernelPanic, true, "it found no root file system", "VFS: Unable to mount root fs"},
	"panic-init-dies":         {KernelPanic, true, "the init program exited", "Attempted to kill init! exitcode=0x00000000"},
	"panic-noroot":            {KernelPanic, true, "it found no root file system", "Unable to mount root fs"},
	"ipxe-tls":                {IPXEError, false, "the server's certificate is not trusted", "Permission denied (https://ipxe.org/0216eb8f)"},
	"ipxe-dns":                {IPXEError, false, "the name could not be resolved", "https://ipxe.org/3e11618e"},
	"ipxe-tftp":               {IPXEError, false, "it was not found", "tftp://10.0.2.2/nosuch... Not found"},
	"ipxe-timeout":            {IPXEError, false, `at its step "initrd": it timed out`, "https://ipxe.org/4c0a6092"},
	"firmware-shell":          {NothingToBoot, false, "the firmware found nothing that it can boot", "Shell>"},
	"installer-no-space":      {NoSpace, true, "make another target with a larger disk", "pxelab: Failed no disk for the image"},
	"installer-io-error":      {InstallerError, true, "the installer failed: writing the image to vda", "I/O error, dev vda, sector 0"},
	"installer-checksum":      {ChecksumMismatch, true, "image stream is damaged", "its header has digest sha256:"},
	"emergency-mode":          {EmergencyMode, true, "a file system in /etc/fstab is missing", "[ TIME ] Timed out waiting for device"},
	"ssh-failed":              {SSHFailed, false, "the SSH server could not be started", "[FAILED] Failed to start ssh.service"},
	"initramfs-shell":         {InitramfsShell, true, "waits in a shell", "ALERT!  UUID=00000000-0000-4000-8000-000000000000 does not exist"},
	"dracut-shell":            {InitramfsShell, true, "waits in a shell", "[ TIME ] Timed out waiting for device"},
	"initramfs-shell-no-root": {InitramfsShell, true, "waits in a shell", "No root device specified"},
}

// check checks the invariants of every finding.
func check(t *testing.T, f Finding) {
	t.Helper()
	if len(f.Lines) > maxLines {
		t.Errorf("got %d lines, want at most %d", len(f.Lines), maxLines)
	}
	for _, l := range append([]string{f.Explanation}, f.Lines...) {
		if l == "" {
			t.Error("got an empty line, want a text")
		}
		if len(l) > 4*maxLine {
			t.Errorf("got a line of %d bytes, want at most %d: %q", len(l), 4*maxLine, l)
		}
		if !utf8.ValidString(l) {
			t.Errorf("got line %q, want valid UTF-8", l)
		}
		if i := strings.IndexFunc(l, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("got line %q with a control character at %d, want none", l, i)
		}
	}
	if f.Kind == "" {
		t.Error("got a finding without a kind, want one with a kind")
	}
}

func TestDiagnoseReadsOnlyLastBoot(t *testing.T) {
	const panicked = "[    1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000000\n"
	for name, c := range map[string]struct {
		text string
		want Kind
	}{
		"panic, then reset":        {panicked + "BdsDxe: loading Boot0001 \"disk\"\n", ""},
		"panic, then network boot": {panicked + ">>Start PXE over IPv4.\n  PXE-E16: No valid offer received.\n", NoOffer},
		"TFTP failed, then IPv6 and HTTP": {
			">>Start PXE over IPv4.\n  PXE-E23: Client received TFTP error from server.\n" +
				">>Start PXE over IPv6.\n  PXE-E16: No valid offer received.\n>>Start HTTP Boot over IPv4.\n",
			TransferFailed,
		},
		"iPXE error, then a kernel":   {"http://a/b... Not found (https://ipxe.org/2d0c618e)\nEFI stub: Loaded initrd\n", ""},
		"missing autoexec.ipxe":       {"tftp://a/autoexec.ipxe... Not found (https://ipxe.org/2d12618e)\n", ""},
		"error, then another attempt": {"pxelab: Failed no disk\npxelab: installer started\n", ""},
		"nothing":                     {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, found := Diagnose([]byte(c.text))
			if got.Kind != c.want {
				t.Errorf("got kind %q, want %q", got.Kind, c.want)
			}
			if want := c.want != ""; found != want {
				t.Errorf("got found %t, want %t", found, want)
			}
		})
	}
}

func TestClean(t *testing.T) {
	token := "c2VjcmV0LXRva2VuLW9uZQ"
	for name, c := range map[string]struct{ text, want string }{
		"colours":         {"\x1b[0;1;31mred\x1b[0m end", "red end"},
		"title":           {"a\x1b]0;title\x07b", "ab"},
		"cursor":          {"one\x1b[05;01Htwo", "one|two"},
		"carriage return": {"10%\r20%\r", "20%"},
		"backspaces":      {"a 10%\b\b\b\b    \b\b\b\b 20%\n\b\bb", "a 20%|b"},
		"crlf":            {"a\r\r\nb\r\n", "a|b"},
		"binary":          {"a\x00\x01\xff\xfeb", "a??b"},
		"incomplete":      {"a\x1b[12", "a12"},
		"escape at end":   {"a\x1b", "a"},
		"token":           {"http://192.168.89.1/m/" + token + "/kernel... ok", "http://192.168.89.1/m/.../kernel... ok"},
		"password":        {"my password: hunter2 ok", "my password: ... ok"},
		"assigned":        {`API_KEY="abc" x`, `API_KEY="..." x`},
		"non-ASCII":       {"grün", "grün"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(clean([]byte(c.text)), "|"); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestExplainIPXE(t *testing.T) {
	for code, want := range map[string]string{
		"2d0c618e": "it was not found",
		"4c126035": "it timed out",
		"2E852001": "it cannot be executed",
		"f0a6095":  "the connection was reset",
		"7f000001": "https://ipxe.org/7f000001 explains its error",
	} {
		url := "https://ipxe.org/" + strings.ToLower(strings.Repeat("0", 8-len(code))+code)
		if got := explainIPXE(code); !strings.Contains(got, want) || !strings.Contains(got, url) {
			t.Errorf("explainIPXE(%q) = %q, want %q and %s", code, got, want, url)
		}
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "serial.log")
	if b, err := Tail(path, 0); err != nil || b != nil {
		t.Errorf("missing log: got %q, %v, want nil, nil", b, err)
	}
	text := strings.Repeat("0123456789abcde\n", MaxTail/8)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		offset int64
		want   int
	}{
		"end of a long log": {0, MaxTail - 16},
		"last boot":         {int64(len(text)) - 32, 32},
		"offset at the end": {int64(len(text)), 0},
		"truncated log":     {int64(len(text)) + 1, MaxTail - 16},
		"negative offset":   {-1, MaxTail - 16},
	} {
		b, err := Tail(path, c.offset)
		if err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
		}
		if len(b) != c.want {
			t.Errorf("%s: got %d bytes, want %d", name, len(b), c.want)
		}
		if !strings.HasSuffix(text, string(b)) {
			t.Errorf("%s: got %d other bytes, want the last ones of the log", name, len(b))
		}
	}
}

func FuzzDiagnose(f *testing.F) {
	for name := range realLogs {
		text, err := os.ReadFile(filepath.Join("testdata", "logs", name+".log"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, found := Diagnose(text); found {
			check(t, got)
		}
	})
}
