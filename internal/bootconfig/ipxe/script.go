// SPDX-License-Identifier: Apache-2.0

// Package ipxe renders the scripts that iPXE fetches: install, boot from the
// disk, wait. Its functions are pure; the caller decides which script a machine
// gets.
//
// The scripts run on iPXE builds from 2019 on and never end at a prompt: a
// failed step is reported to the server and retried, and after three rounds the
// machine reboots.
//
// On UEFI the kernel has two ways to find its initrd. iPXE builds from 2023 on
// offer all initrd images as one at the LINUX_EFI_INITRD_MEDIA_GUID path, which
// kernels from 5.7 on prefer. In all other combinations the kernel reads the
// files named by initrd= arguments, in that order, and joins them without
// padding. Naming the images therefore works everywhere, while
// initrd=initrd.magic fails on builds before 2021.
package ipxe

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// maxCommandLine is the limit of x86 and arm64 kernels (COMMAND_LINE_SIZE).
const maxCommandLine = 2047

// Install has the parameters of the install script.
type Install struct {
	// Name of the machine, printed on its console.
	Name string
	// BaseURL is the base URL of the machine's files, with a trailing slash.
	BaseURL string
	// Architecture is "x86_64" or "aarch64".
	Architecture string
	// InitPath is the installer's path in the overlay.
	InitPath string
	// URLArg and NetArg are the names of the kernel arguments for the base URL
	// and for the network settings.
	URLArg, NetArg string
	// PrefixLength, Gateway and MTU are added to iPXE's own settings; an empty
	// Gateway and an MTU of 0 are omitted.
	PrefixLength int
	Gateway      string
	MTU          int
	// KernelArgs are the user's additional kernel arguments.
	KernelArgs []string
	// OverlaySize in bytes determines whether another archive can follow the
	// overlay.
	OverlaySize int64
}

// CommandLine returns the kernel command line with iPXE's variables unexpanded.
// It fails for an invalid kernel argument and for a command line that is too
// long.
func (i Install) CommandLine() (string, error) {
	args := []string{"initrd=initrd", "initrd=overlay"}
	if i.OverlaySize%4 == 0 {
		// Archives are joined without padding, and an uncompressed archive must
		// start at a multiple of four bytes. Only the overlay's size is known.
		args = []string{"initrd=overlay", "initrd=initrd"}
	}
	args = append(args,
		"rdinit="+i.InitPath,
		i.URLArg+"="+i.BaseURL,
		i.NetArg+"="+i.network(),
	)
	console := false
	for _, arg := range i.KernelArgs {
		if err := checkArg(arg); err != nil {
			return "", err
		}
		console = console || strings.HasPrefix(arg, "console=")
	}
	if !console {
		args = append(args, defaultConsole(i.Architecture))
	}
	line := strings.Join(append(args, i.KernelArgs...), " ")
	if len(line) > maxCommandLine {
		return "", fmt.Errorf("the kernel command line has %d characters, more than %d; remove some kernelArgs", len(line), maxCommandLine)
	}
	return line, nil
}

func (i Install) network() string {
	mtu := ""
	if i.MTU > 0 {
		mtu = fmt.Sprint(i.MTU)
	}
	return strings.TrimRight(fmt.Sprintf("${netX/mac},${netX/ip}/%d,%s,%s", i.PrefixLength, i.Gateway, mtu), ",")
}

func defaultConsole(architecture string) string {
	if architecture == "aarch64" {
		return "console=ttyAMA0"
	}
	return "console=ttyS0,115200"
}

// checkArg refuses text that iPXE would not parse as one argument.
func checkArg(arg string) error {
	switch {
	case arg == "":
		return errors.New("a kernel argument is empty")
	case strings.ContainsFunc(arg, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return fmt.Errorf("kernel argument %q contains white space or control characters; list each argument separately", arg)
	case arg == "||" || arg == "&&" || strings.HasPrefix(arg, "#"):
		return fmt.Errorf("kernel argument %q is an operator or a comment in an iPXE script", arg)
	}
	return nil
}

// Script returns the default install script. It fails as CommandLine does.
func (i Install) Script() (string, error) {
	line, err := i.CommandLine()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`#!ipxe
echo pxelab: installing %[1]s
set base %[2]s
set round:int32 0
:round
imgfree
set step kernel
kernel --name kernel ${base}kernel %[3]s || goto failed
set step initrd
initrd --name initrd ${base}initrd || goto failed
set step overlay
initrd --name overlay ${base}overlay || goto failed
set step boot
boot || goto failed
:failed
set code ${errno}
echo pxelab: step ${step} failed: error ${code}
imgfree
imgfetch --name report --timeout 5000 ${base}ipxe-error?step=${step}&code=${code} || echo pxelab: reporting the error failed
imgfree
inc round || goto pause
iseq ${round} 3 && goto restart ||
:pause
sleep 3 ||
goto round
:restart
echo pxelab: restarting in 15 seconds
sleep 15 ||
reboot || goto round
`, echoable(i.Name), i.BaseURL, line), nil
}

// AutoexecName is the name of the script that iPXE builds from 2024 on request
// by TFTP when they start.
const AutoexecName = "autoexec.ipxe"

// Autoexec returns that script for the machine with the given MAC address. It
// reuses the firmware's lease, which saves iPXE's wait for a key press and its
// DHCP exchange. On any mismatch or failure it falls back to autoboot.
func Autoexec(mac, scriptURL string) string {
	return fmt.Sprintf(`#!ipxe
iseq ${net0/mac} %s || goto fallback
ifopen net0 || goto fallback
isset ${net0/ip} || goto fallback
chain --replace --autofree %s || goto fallback
:fallback
autoboot || exit 1
`, strings.ToLower(mac), scriptURL)
}

// Disk returns the script for a machine that must boot from its disk. It exits
// with an error, which makes the firmware try its next boot option; a program
// that succeeds ends in the firmware's menu (UEFI 2.10, 3.1.2).
func Disk(name string) string {
	return fmt.Sprintf(`#!ipxe
echo pxelab: %s boots from its disk, continuing with the next boot device
exit 1
`, echoable(name))
}

// Wait returns the script for a machine whose files are not all available yet.
// It requests the machine's script again every few seconds.
func Wait(baseURL, reason string) string {
	return fmt.Sprintf(`#!ipxe
echo pxelab: waiting: %s
:again
sleep 3 ||
chain --replace --autofree %sboot.ipxe || goto again
`, echoable(reason), baseURL)
}

// CheckScript returns an error if iPXE would not run text as a script.
func CheckScript(text string) error {
	if !strings.HasPrefix(text, "#!ipxe\n") && !strings.HasPrefix(text, "#!ipxe\r\n") {
		return errors.New(`the iPXE script must begin with the line "#!ipxe"`)
	}
	return nil
}

// echoable replaces characters that iPXE would expand, or that would end the
// line, in the argument of an echo.
func echoable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune("$|&#{}", r) {
			return '.'
		}
		return r
	}, s)
}
