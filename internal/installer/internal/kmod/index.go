// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Index is the index of one kernel release's modules. It is immutable after
// Open.
type Index struct {
	dir       string
	files     map[string]module  // by normalized name
	aliases   map[string][]alias // by the part before the first colon
	plain     map[string][]string
	softPre   map[string][]string
	softPost  map[string][]string
	options   map[string][]string
	blacklist map[string]bool
}

type module struct {
	path string   // relative to the root given to Open
	deps []string // normalized names, direct and indirect, as depmod orders them
}

type alias struct {
	pattern string
	module  string
}

// Module is a module to insert.
type Module struct {
	Name    string
	Path    string // relative to the root given to Open
	Options string // parameters, separated by spaces
}

// ErrNoModules reports that the initrd lacks modules for the kernel release.
var ErrNoModules = errors.New("no kernel modules")

// Empty returns the index of a kernel without modules.
func Empty() *Index {
	return &Index{
		files:     map[string]module{},
		aliases:   map[string][]alias{},
		plain:     map[string][]string{},
		softPre:   map[string][]string{},
		softPost:  map[string][]string{},
		options:   map[string][]string{},
		blacklist: map[string]bool{},
	}
}

// Open reads the index of a kernel release. root is the root file system.
// Like modprobe, Open applies the arguments name.parameter=value and
// modprobe.blacklist= of cmdline, the kernel command line.
func Open(root fs.FS, release, cmdline string) (*Index, error) {
	x := Empty()
	for _, base := range []string{"lib/modules", "usr/lib/modules"} {
		dir := path.Join(base, release)
		if st, err := fs.Stat(root, dir); err == nil && st.IsDir() {
			x.dir = dir
			break
		}
	}
	if x.dir == "" {
		return nil, fmt.Errorf("%w for kernel %s in the initrd's /lib/modules or /usr/lib/modules; use the initrd that was built for this kernel",
			ErrNoModules, release)
	}
	if err := x.readDeps(root); err != nil {
		return nil, err
	}
	for _, name := range []string{"modules.alias", "modules.softdep"} {
		if err := x.readConfig(root, path.Join(x.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	if len(x.aliases) == 0 {
		if err := x.readBinary(root, "modules.alias.bin", x.addAlias); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	x.readModprobeD(root)
	x.readCmdline(cmdline)
	return x, nil
}

func (x *Index) readDeps(root fs.FS) error {
	text, err := fs.ReadFile(root, path.Join(x.dir, "modules.dep"))
	if err == nil {
		for line := range strings.Lines(string(text)) {
			x.addDep(line)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading modules.dep: %w", err)
	}
	err = x.readBinary(root, "modules.dep.bin", func(_, value string) { x.addDep(value) })
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: /%s has neither modules.dep nor modules.dep.bin", ErrNoModules, x.dir)
	}
	return err
}

// addDep adds a line of the form "FILE: FILE...".
func (x *Index) addDep(line string) {
	file, rest, ok := strings.Cut(line, ":")
	if !ok {
		return
	}
	m := module{path: x.resolve(file)}
	for _, dep := range strings.Fields(rest) {
		m.deps = append(m.deps, nameOf(dep))
	}
	x.files[nameOf(file)] = m
}

func (x *Index) resolve(file string) string {
	if strings.HasPrefix(file, "/") {
		return strings.TrimPrefix(path.Clean(file), "/")
	}
	return path.Join(x.dir, file)
}

// nameOf returns the name of the module in a file.
func nameOf(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return normalize(base)
}

// normalize replaces dashes by underscores, which the kernel treats alike. It
// keeps the dashes inside a pattern's sets.
func normalize(name string) string {
	if !strings.Contains(name, "-") {
		return name
	}
	b := []byte(name)
	set := false
	for i, c := range b {
		switch {
		case c == '[':
			set = true
		case c == ']':
			set = false
		case c == '-' && !set:
			b[i] = '_'
		}
	}
	return string(b)
}

// readConfig reads a file in modprobe.d's syntax. It ignores "install" commands.
func (x *Index) readConfig(root fs.FS, file string) error {
	text, err := fs.ReadFile(root, file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		switch f[0] {
		case "alias":
			if len(f) >= 3 {
				x.addAlias(f[1], f[2])
			}
		case "softdep":
			x.addSoftdep(normalize(f[1]), f[2:])
		case "options":
			x.options[normalize(f[1])] = append(x.options[normalize(f[1])], f[2:]...)
		case "blacklist":
			x.blacklist[normalize(f[1])] = true
		}
	}
	return nil
}

func (x *Index) addAlias(pattern, name string) {
	pattern = normalize(pattern)
	bus, _, ok := strings.Cut(pattern, ":")
	if !ok || strings.ContainsAny(bus, "*?[") {
		if !ok && !strings.ContainsAny(pattern, "*?[") {
			x.plain[pattern] = append(x.plain[pattern], normalize(name))
			return
		}
		bus = "" // such as acpi*:LNRO0005:*
	}
	x.aliases[bus] = append(x.aliases[bus], alias{pattern, normalize(name)})
}

func (x *Index) addSoftdep(name string, words []string) {
	where := x.softPre
	for _, w := range words {
		switch w {
		case "pre:":
			where = x.softPre
		case "post:":
			where = x.softPost
		default:
			where[name] = append(where[name], w)
		}
	}
}

func (x *Index) readModprobeD(root fs.FS) {
	seen := map[string]bool{}
	for _, dir := range []string{"etc/modprobe.d", "run/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d"} {
		entries, err := fs.ReadDir(root, dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".conf") && !seen[e.Name()] {
				seen[e.Name()] = true
				// An unreadable file is ignored: it only has optional settings.
				_ = x.readConfig(root, path.Join(dir, e.Name()))
			}
		}
	}
}

func (x *Index) readCmdline(cmdline string) {
	for _, arg := range strings.Fields(cmdline) {
		key, value, _ := strings.Cut(arg, "=")
		if key == "modprobe.blacklist" {
			for name := range strings.SplitSeq(value, ",") {
				x.blacklist[normalize(name)] = true
			}
			continue
		}
		if name, param, ok := strings.Cut(key, "."); ok && name != "" && param != "" {
			name = normalize(name)
			x.options[name] = append(x.options[name], arg[strings.IndexByte(arg, '.')+1:])
		}
	}
}

// Lookup returns the names of the modules that match a modalias, each once, in
// the order of the index. It omits blacklisted modules.
func (x *Index) Lookup(modalias string) []string {
	var names []string
	add := func(name string) {
		if !x.blacklist[name] && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	modalias = normalize(modalias)
	bus, _, _ := strings.Cut(modalias, ":")
	for _, list := range [][]alias{x.aliases[bus], x.aliases[""]} {
		for _, a := range list {
			if matchGlob(a.pattern, modalias) {
				add(a.module)
			}
		}
	}
	for _, name := range x.plain[modalias] {
		add(name)
	}
	return names
}

// Has reports whether the index has a file for the module. A module without a
// file may be built into the kernel.
func (x *Index) Has(name string) bool {
	_, ok := x.files[normalize(name)]
	return ok
}

// Plan returns the modules to insert for a module or an alias without
// wildcards, dependencies first. It omits modules without a file, which it
// assumes to be built into the kernel.
func (x *Index) Plan(name string) []Module {
	p := planner{index: x, seen: map[string]bool{}}
	p.add(name)
	return p.modules
}

type planner struct {
	index   *Index
	seen    map[string]bool
	modules []Module
}

func (p *planner) add(name string) {
	x := p.index
	name = normalize(name)
	if p.seen[name] {
		return
	}
	p.seen[name] = true
	m, ok := x.files[name]
	if !ok {
		for _, real := range x.plain[name] {
			if !x.blacklist[real] {
				p.add(real)
			}
		}
		return
	}
	for _, dep := range x.softPre[name] {
		p.add(dep)
	}
	// depmod lists dependencies in reverse order of insertion.
	for _, dep := range slices.Backward(m.deps) {
		p.add(dep)
	}
	p.modules = append(p.modules, Module{Name: name, Path: m.path, Options: strings.Join(x.options[name], " ")})
	for _, dep := range x.softPost[name] {
		p.add(dep)
	}
}
