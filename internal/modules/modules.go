// Package modules loads kernel modules in process, without modprobe: it reads
// the files depmod(8) left in /lib/modules/RELEASE, finds which modules a device
// or a request of the kernel asks for, and hands them to finit_module(2) with
// what they depend on.
//
// It owns the meaning of modules.dep, modules.alias, modules.builtin,
// modules.softdep and modules.devname, of modprobe.d's blacklist, options, alias
// and softdep lines, and of the module parameters on the kernel command line. It
// promises that a module is loaded after everything it depends on, that one that
// is there already is no error, that a driver which hangs in its initialisation is
// waited for with a bound, and that nothing is read before it is needed. It
// never unloads a module and never runs another program.
package modules

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNoModules says that the image brings no modules at all: quite right for a
// kernel that has everything built in.
var ErrNoModules = errors.New("no kernel modules in the image")

// ErrNotFound says that nothing of the name is known: no module, no alias.
var ErrNotFound = errors.New("no such module")

// Index knows the modules of one kernel. It is safe for use by several
// goroutines. Two that load the same module at once both get it: the kernel lets
// the second wait for the first.
type Index struct {
	dir string // /lib/modules/RELEASE, empty where there is none
	sys system

	readOnce sync.Once
	deps     map[string]string // module -> its line of modules.dep
	builtin  map[string]bool
	soft     map[string]softdep
	conf     config
	readErr  error

	mu      sync.Mutex
	answers map[string][]string // alias -> its modules; guarded by mu
	hung    map[string]bool     // modules whose initialisation does not end; guarded by mu
}

// maxAnswers bounds what is remembered of modules.alias.
const maxAnswers = 1000

// system is the seam to the kernel, so that the order of loading can be tested
// without one.
type system struct {
	root   string // prefix of every path
	insert func(path, params string) error
}

// Open finds the modules of a kernel release, as in uname -r. The Index returned
// can always be used; together with an error it knows no modules. The error is
// ErrNoModules where the image has none, and else says what is wrong with them.
func Open(release string) (*Index, error) {
	return open(release, system{insert: insert})
}

// Running returns the release of the running kernel.
func Running() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func open(release string, sys system) (*Index, error) {
	x := &Index{sys: sys}
	var others []string
	for _, lib := range []string{"/lib/modules", "/usr/lib/modules"} {
		dir := filepath.Join(sys.root, lib, release)
		if info, err := os.Stat(dir); release != "" && err == nil && info.IsDir() {
			if _, err := os.Stat(filepath.Join(dir, "modules.dep")); err != nil {
				return x, fmt.Errorf("%s has no modules.dep, so no module can be loaded: run depmod when the kernel image is made", dir)
			}
			x.dir = dir
			return x, nil
		}
		entries, _ := os.ReadDir(filepath.Join(sys.root, lib))
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(others, e.Name()) {
				others = append(others, e.Name())
			}
		}
	}
	if len(others) == 0 {
		return x, ErrNoModules
	}
	return x, fmt.Errorf("the kernel is %s but /lib/modules holds modules of %s: none can be loaded; give the image the modules of its own kernel", release, strings.Join(others, ", "))
}

// read reads the small files, once, when the first module is asked for.
func (x *Index) read() error {
	x.readOnce.Do(func() { x.readErr = x.readFiles() })
	return x.readErr
}

func (x *Index) readFiles() error {
	x.conf = readConfig(x.sys.root)
	if x.dir == "" {
		return nil
	}
	dep, err := os.ReadFile(filepath.Join(x.dir, "modules.dep"))
	if err != nil {
		return fmt.Errorf("read the modules' dependencies: %w", err)
	}
	x.deps = parseDep(string(dep))
	// Without these a kernel image is still usable: nothing is known to be built
	// in, and there are no soft dependencies.
	builtin, _ := os.ReadFile(filepath.Join(x.dir, "modules.builtin"))
	x.builtin = map[string]bool{}
	for line := range strings.Lines(string(builtin)) {
		x.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	softdeps, _ := os.ReadFile(filepath.Join(x.dir, "modules.softdep"))
	x.soft = parseSoftdep(string(softdeps))
	for name, s := range x.conf.soft {
		x.soft[name] = s // modprobe.d comes first
	}
	return nil
}

// live reports whether the module is loaded and has finished its initialisation.
// The kernel is asked each time: modules come and go without us.
func (x *Index) live(name string) bool {
	state, err := os.ReadFile(filepath.Join(x.sys.root, "/sys/module", name, "initstate"))
	return err == nil && strings.TrimSpace(string(state)) == "live"
}

// parseDep maps each module of modules.dep to its line "PATH: DEPENDENCY ...".
func parseDep(text string) map[string]string {
	deps := make(map[string]string, strings.Count(text, "\n"))
	for text != "" {
		line := text
		if end := strings.IndexByte(text, '\n'); end >= 0 {
			line, text = text[:end], text[end+1:]
		} else {
			text = ""
		}
		if colon := strings.IndexByte(line, ':'); colon >= 0 {
			deps[moduleName(line[:colon])] = line
		}
	}
	return deps
}

// moduleName is the name of a module from the path of its file:
// "kernel/drivers/char/hw_random/virtio-rng.ko.xz" is virtio_rng.
func moduleName(path string) string {
	name := path[strings.LastIndexByte(path, '/')+1:]
	if i := strings.Index(name, ".ko"); i >= 0 {
		name = name[:i]
	}
	return normalize(name)
}

// normalize makes a name as the kernel has it: - and _ are the same.
func normalize(name string) string {
	if strings.IndexByte(name, '-') < 0 {
		return name
	}
	return strings.ReplaceAll(name, "-", "_")
}

// Load loads the module of that name, or the modules that have it as an alias,
// with all they depend on. What is built into the kernel or loaded already is no
// error. The parameters ("NAME=VALUE") come after those of modprobe.d and of the
// kernel command line.
func (x *Index) Load(ctx context.Context, name string, params ...string) error {
	names, err := x.resolve(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		if err := x.loadOne(ctx, n, strings.Join(params, " ")); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// LoadAlias loads what an alias asks for: a MODALIAS of a device, or a name the
// kernel makes up ("fs-overlay", "rtnl-link-veth"). Blacklisted modules are left
// out; nothing left to load is ErrNotFound. It returns the modules it loaded.
func (x *Index) LoadAlias(ctx context.Context, alias string) ([]string, error) {
	if err := x.read(); err != nil {
		return nil, err
	}
	found, err := x.match([]string{alias})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: %w", alias, ErrNotFound)
	}
	return x.loadAll(ctx, found)
}

// loadAll loads modules found by their aliases. A module that finds no device of
// its own after all (ENODEV) is no error here: aliases are a first guess.
func (x *Index) loadAll(ctx context.Context, names []string) (loaded []string, err error) {
	var errs []error
	var missing []string
	for _, name := range names {
		if x.conf.blacklist[name] || x.builtin[name] {
			continue
		}
		fresh, err := x.load(ctx, name, "")
		loaded = append(loaded, fresh...)
		switch {
		case err == nil, errors.Is(err, unix.ENODEV):
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, name)
		default:
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(missing) > 0 {
		errs = append(errs, fmt.Errorf("modules.dep names modules that are not in the image: %s", strings.Join(missing, ", ")))
	}
	return loaded, errors.Join(errs...)
}

// resolve turns a name into modules: one of modprobe.d's aliases, else a module,
// else an alias of modules.alias.
func (x *Index) resolve(name string) ([]string, error) {
	if err := x.read(); err != nil {
		return nil, err
	}
	if named := x.conf.aliased(name); len(named) > 0 {
		return named, nil
	}
	norm := normalize(name)
	if x.deps[norm] != "" || x.builtin[norm] {
		return []string{norm}, nil
	}
	found, err := x.match([]string{name})
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(n string) bool { return x.conf.blacklist[n] })
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return found, nil
}

func (x *Index) loadOne(ctx context.Context, name, params string) error {
	_, err := x.load(ctx, name, params)
	return err
}
