// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ipxeCommand is a command: flags are its options without the leading hyphens, args
// what follows them.
type ipxeCommand struct {
	run func(x *ipxe, ctx context.Context, c ipxeArgs) error
	// valued are the options that have a value, with their short forms.
	valued []string
}

type ipxeArgs struct {
	flags map[string]string
	args  []string
	depth int
}

func (a ipxeArgs) has(names ...string) bool {
	for _, name := range names {
		if _, ok := a.flags[name]; ok {
			return true
		}
	}
	return false
}

func (a ipxeArgs) flag(names ...string) string {
	for _, name := range names {
		if v, ok := a.flags[name]; ok {
			return v
		}
	}
	return ""
}

// arg returns the nth argument, or "".
func (a ipxeArgs) arg(n int) string {
	if n < len(a.args) {
		return a.args[n]
	}
	return ""
}

// timeout returns the option of that name, which is in milliseconds.
func (a ipxeArgs) timeout() time.Duration {
	ms, err := strconv.Atoi(a.flag("timeout", "t"))
	if err != nil || ms < 0 {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

var imageOptions = []string{"name", "n", "timeout", "t"}

// ipxeCommands are the commands that scripts of a lab use. A function and not a
// variable, because commands execute scripts, which execute commands.
func ipxeCommands(name string) (ipxeCommand, bool) {
	switch name {
	case "echo":
		return ipxeCommand{run: (*ipxe).echo}, true
	case "set":
		return ipxeCommand{run: (*ipxe).set}, true
	case "clear":
		return ipxeCommand{run: (*ipxe).clear}, true
	case "isset":
		return ipxeCommand{run: (*ipxe).isset}, true
	case "iseq":
		return ipxeCommand{run: (*ipxe).iseq}, true
	case "inc":
		return ipxeCommand{run: (*ipxe).inc}, true
	case "goto":
		return ipxeCommand{run: (*ipxe).jump}, true
	case "exit":
		return ipxeCommand{run: (*ipxe).exit}, true
	case "sleep":
		return ipxeCommand{run: (*ipxe).sleep}, true
	case "imgfetch", "module", "initrd":
		return ipxeCommand{run: (*ipxe).imgfetch, valued: imageOptions}, true
	case "kernel", "imgselect", "imgload":
		return ipxeCommand{run: (*ipxe).kernel, valued: imageOptions}, true
	case "imgargs":
		return ipxeCommand{run: (*ipxe).imgargs}, true
	case "imgfree":
		return ipxeCommand{run: (*ipxe).imgfree}, true
	case "boot", "chain", "imgexec":
		return ipxeCommand{run: (*ipxe).imgexec, valued: imageOptions}, true
	case "ifopen", "ifclose", "ifstat", "route", "imgstat", "cpuid", "console", "sync":
		return ipxeCommand{run: (*ipxe).nothing, valued: []string{"ext", "picture"}}, true
	case "dhcp", "ifconf":
		return ipxeCommand{run: (*ipxe).ifconf, valued: []string{"configurator", "c", "timeout", "t"}}, true
	case "autoboot":
		return ipxeCommand{run: func(x *ipxe, ctx context.Context, a ipxeArgs) error { return x.autoboot(ctx, a.depth) }}, true
	case "sanboot":
		return ipxeCommand{
			run:    func(*ipxe, context.Context, ipxeArgs) error { return errBootDisk },
			valued: []string{"drive", "d", "filename", "f", "extra", "e", "label", "l", "uuid", "u"},
		}, true
	case "reboot":
		return ipxeCommand{run: func(*ipxe, context.Context, ipxeArgs) error { return resetError{"iPXE's command reboot"} }}, true
	case "poweroff":
		return ipxeCommand{run: func(*ipxe, context.Context, ipxeArgs) error { return errPowerOff }}, true
	case "shell", "config", "login":
		return ipxeCommand{run: func(*ipxe, context.Context, ipxeArgs) error { return errShell }}, true
	case "prompt":
		return ipxeCommand{run: (*ipxe).prompt, valued: []string{"key", "k", "timeout", "t"}}, true
	}
	return ipxeCommand{}, false
}

// command executes one command and records its failure in the setting errno.
func (x *ipxe) command(ctx context.Context, words []string, depth int) error {
	if x.commands++; x.commands > maxCommands {
		return errShell
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(words) == 0 {
		return nil
	}
	var err error
	if c, ok := ipxeCommands(words[0]); ok {
		args := parseArgs(words[1:], c.valued)
		args.depth = depth
		err = c.run(x, ctx, args)
	} else {
		x.g.serial.line("%s: command not found", words[0])
		err = errIPXECommand
	}
	var failure *ipxeError
	if errors.As(err, &failure) {
		x.errno = failure.code
	}
	return err
}

// parseArgs separates the options before the first argument, as getopt does.
func parseArgs(words, valued []string) ipxeArgs {
	a := ipxeArgs{flags: map[string]string{}}
	for len(words) > 0 {
		word := words[0]
		if word == "--" {
			words = words[1:]
			break
		}
		name := strings.TrimLeft(word, "-")
		if name == word || name == "" {
			break
		}
		words = words[1:]
		name, value, given := strings.Cut(name, "=")
		if !given && slices.Contains(valued, name) && len(words) > 0 {
			value, words = words[0], words[1:]
		}
		a.flags[name] = value
	}
	a.args = words
	return a
}

func (x *ipxe) echo(_ context.Context, a ipxeArgs) error {
	line := strings.Join(a.args, " ")
	if a.has("n") {
		x.g.serial.print(line[:min(len(line), maxLine)])
		return nil
	}
	x.g.serial.line("%s", line)
	return nil
}

func (x *ipxe) set(_ context.Context, a ipxeArgs) error {
	if len(a.args) == 0 {
		return errIPXEUsage
	}
	name, _, _ := strings.Cut(a.args[0], ":")
	x.settings[name] = strings.Join(a.args[1:], " ")
	return nil
}

func (x *ipxe) clear(_ context.Context, a ipxeArgs) error {
	name, _, _ := strings.Cut(a.arg(0), ":")
	delete(x.settings, name)
	return nil
}

func (x *ipxe) isset(_ context.Context, a ipxeArgs) error {
	if a.arg(0) == "" {
		return errIPXEUsage
	}
	return nil
}

func (x *ipxe) iseq(_ context.Context, a ipxeArgs) error {
	switch {
	case len(a.args) != 2:
		return errIPXEUsage
	case a.args[0] != a.args[1]:
		return errIPXEFalse
	}
	return nil
}

func (x *ipxe) inc(_ context.Context, a ipxeArgs) error {
	name, _, _ := strings.Cut(a.arg(0), ":")
	if name == "" {
		return errIPXEUsage
	}
	by := 1
	if v := a.arg(1); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return errIPXEUsage
		}
		by = n
	}
	n, err := strconv.Atoi(x.settings[name])
	if err != nil {
		n = 0
	}
	x.settings[name] = strconv.Itoa(n + by)
	return nil
}

func (x *ipxe) jump(_ context.Context, a ipxeArgs) error { return errGoto{a.arg(0)} }

func (x *ipxe) exit(_ context.Context, a ipxeArgs) error {
	if status := a.arg(0); status != "" && status != "0" {
		code, err := strconv.ParseUint(status, 0, 32)
		if err != nil {
			return errIPXEUsage
		}
		return errExit{&ipxeError{uint32(code), "Error " + status}}
	}
	return errExit{}
}

func (x *ipxe) sleep(ctx context.Context, a ipxeArgs) error {
	seconds, err := strconv.ParseFloat(a.arg(0), 64)
	if err != nil || seconds < 0 || seconds > 1e6 {
		return errIPXEUsage
	}
	if seconds > 0 {
		x.commands = 0
	}
	return pause(ctx, time.Duration(seconds*float64(time.Second)))
}

func (x *ipxe) prompt(ctx context.Context, a ipxeArgs) error {
	x.g.serial.line("%s", strings.Join(a.args, " "))
	timeout := a.timeout()
	if timeout == 0 {
		return errShell
	}
	if err := pause(ctx, timeout); err != nil {
		return err
	}
	return errIPXETimeout
}

func (x *ipxe) nothing(context.Context, ipxeArgs) error { return nil }

func (x *ipxe) ifconf(ctx context.Context, _ ipxeArgs) error { return x.dhcp(ctx) }

// resolve returns a URI relative to the one of the script that runs.
func (x *ipxe) resolve(uri string) string {
	if hasScheme(uri) {
		return uri
	}
	base, err := url.Parse(x.base)
	if err != nil {
		return uri
	}
	u, err := base.Parse(uri)
	if err != nil {
		return uri
	}
	return u.String()
}
