// SPDX-License-Identifier: Apache-2.0

// Package ipxe renders the scripts that iPXE fetches: install, go on to the
// disk, wait. It is pure. What a machine gets is decided elsewhere.
//
// The scripts run on builds from 2019 on and never end at a prompt: whatever
// fails is told to the server and tried again, in the end from power-on.
//
// On UEFI the kernel looks for its initrd in two ways. Builds from 2023 on
// offer all initrd images as one by the LINUX_EFI_INITRD_MEDIA_GUID path,
// which kernels from 5.7 on prefer. For every other pairing the kernel reads
// the files that initrd= arguments name, in their order, and joins them
// without padding. Naming the images therefore works everywhere, while
// initrd=initrd.magic fails on builds before 2021.
package ipxe

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// maxCommandLine is what x86 and arm64 kernels keep (COMMAND_LINE_SIZE).
const maxCommandLine = 2047

// Install is what the installation's script is made of.
type Install struct {
	// Name of the machine, for its console.
	Name string
	// BaseURL of the machine's files, with a trailing slash.
	BaseURL string
	// Architecture is "x86_64" or "aarch64".
	Architecture string
	// InitPath is the installer's path in the overlay.
	InitPath string
	// URLArg and NetArg name the kernel arguments for the base URL and for
	// the network settings.
	URLArg, NetArg string
	// PrefixLength, Gateway and MTU complete iPXE's own settings; an empty
	// Gateway and an MTU of 0 are left out.
	PrefixLength int
	Gateway      string
	MTU          int
	// KernelArgs are the user's.
	KernelArgs []string
	// OverlaySize in bytes tells whether another archive can follow it.
	OverlaySize int64
}

// CommandLine is the kernel's command line as the script has it: iPXE puts its
// own settings in when it runs.
func (i Install) CommandLine() (string, error) {
	args := []string{"initrd=initrd", "initrd=overlay"}
	if i.OverlaySize%4 == 0 {
		// Joined without padding, an archive that isn't compressed must start
		// at a multiple of four bytes. The overlay's size we know.
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
		return "", fmt.Errorf("the kernel command line has %d characters, more than %d: take out some kernelArgs", len(line), maxCommandLine)
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

// checkArg refuses what iPXE would take for something else than an argument.
func checkArg(arg string) error {
	switch {
	case arg == "":
		return errors.New("a kernel argument is empty")
	case strings.ContainsFunc(arg, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return fmt.Errorf("kernel argument %q holds white space or control characters: give each argument by itself", arg)
	case arg == "||" || arg == "&&" || strings.HasPrefix(arg, "#"):
		return fmt.Errorf("kernel argument %q means something else to iPXE", arg)
	}
	return nil
}

// Script is the default script. It fails only for bad kernel arguments.
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
imgfetch --name report --timeout 5000 ${base}ipxe-error?step=${step}&code=${code} || echo pxelab: the server could not be told
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

// AutoexecName is the file that builds from 2024 on ask for by TFTP as soon as
// they run.
const AutoexecName = "autoexec.ipxe"

// Autoexec is that file for the machine with the given MAC address: it takes
// over the lease that the firmware has already, and so spares iPXE's pause for
// the keyboard and its own DHCP. Where anything is different from what is
// expected, it goes the usual way.
func Autoexec(mac, scriptURL string) string {
	return fmt.Sprintf(`#!ipxe
iseq ${net0/mac} %s || goto usual
ifopen net0 || goto usual
isset ${net0/ip} || goto usual
chain --replace --autofree %s || goto usual
:usual
autoboot || exit 1
`, strings.ToLower(mac), scriptURL)
}

// Disk is the script of a machine that is to boot from its disk. An EFI
// program that ends with an error makes the firmware try its next boot
// option; one that succeeds ends in the firmware's menu (UEFI 2.10, 3.1.2).
func Disk(name string) string {
	return fmt.Sprintf(`#!ipxe
echo pxelab: %s boots from its disk, going on with the next boot device
exit 1
`, echoable(name))
}

// Wait is the script of a machine whose files are not all there yet: it asks
// again every few seconds.
func Wait(baseURL, reason string) string {
	return fmt.Sprintf(`#!ipxe
echo pxelab: waiting: %s
:again
sleep 3 ||
chain --replace --autofree %sboot.ipxe || goto again
`, echoable(reason), baseURL)
}

// CheckScript refuses text that iPXE would not run as a script.
func CheckScript(text string) error {
	if !strings.HasPrefix(text, "#!ipxe\n") && !strings.HasPrefix(text, "#!ipxe\r\n") {
		return errors.New(`the iPXE script must begin with a line "#!ipxe"`)
	}
	return nil
}

// echoable keeps what iPXE would expand or end the line at out of an echo.
func echoable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune("$|&#{}", r) {
			return '.'
		}
		return r
	}, s)
}
