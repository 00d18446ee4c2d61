package modules

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// softdep are modules that should be tried before and after one.
type softdep struct {
	pre, post []string
}

// parseSoftdep reads lines "softdep NAME pre: A B post: C".
func parseSoftdep(text string) map[string]softdep {
	all := map[string]softdep{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "softdep" {
			continue
		}
		name := normalize(f[1])
		all[name] = addSoftdep(all[name], f[2:])
	}
	return all
}

func addSoftdep(s softdep, words []string) softdep {
	var into *[]string
	for _, w := range words {
		switch {
		case w == "pre:":
			into = &s.pre
		case w == "post:":
			into = &s.post
		case into != nil:
			*into = append(*into, w)
		}
	}
	return s
}

// load loads one module and what it needs. It returns the modules that were not
// there before, in the order they were loaded.
func (x *Index) load(ctx context.Context, name, params string) ([]string, error) {
	l := loader{x: x, ctx: ctx}
	err := l.load(name, params)
	return l.fresh, err
}

// loader is one walk along the dependencies.
type loader struct {
	x     *Index
	ctx   context.Context
	chain []string // the modules being loaded: soft dependencies may go in circles
	fresh []string
}

func (l *loader) load(name, params string) error {
	x := l.x
	if x.builtin[name] || slices.Contains(l.chain, name) || x.live(name) {
		return nil
	}
	if err := l.ctx.Err(); err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	line, known := x.deps[name]
	if !known {
		return fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	if x.conf.never[name] {
		return fmt.Errorf("%s: switched off in modprobe.d (install %s /bin/true or /bin/false)", name, name)
	}
	l.chain = append(l.chain, name)
	defer func() { l.chain = l.chain[:len(l.chain)-1] }()

	soft := x.soft[name]
	for _, s := range soft.pre {
		l.try(s)
	}
	path, needs, _ := strings.Cut(line, ":")
	// the last one named is needed by those before it
	for _, dep := range slices.Backward(strings.Fields(needs)) {
		if err := l.load(moduleName(dep), ""); err != nil {
			return fmt.Errorf("%s needs %w", name, err)
		}
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(x.dir, path)
	}
	err := x.insert(l.ctx, name, path, x.conf.params(name, params))
	switch {
	case err == nil:
		l.fresh = append(l.fresh, name)
	case errors.Is(err, unix.EEXIST):
	default:
		return fmt.Errorf("load module %s: %w", name, explain(err))
	}
	for _, s := range soft.post {
		l.try(s)
	}
	return nil
}

// try loads a soft dependency, which may be an alias, and may fail.
func (l *loader) try(name string) {
	names, err := l.x.resolve(name)
	if err != nil {
		return
	}
	for _, n := range names {
		_ = l.load(n, "")
	}
}

// explain says what the errno of finit_module(2) means.
func explain(err error) error {
	var hint string
	switch {
	case errors.Is(err, unix.ENOEXEC):
		hint = "the file is no module, or one for another kernel"
	case errors.Is(err, errSymbol):
		hint = "it uses a symbol that no loaded module has; the kernel's log names it"
	case errors.Is(err, unix.EPERM) && Locked():
		hint = "no module can be loaded until the machine boots again (kernel.modules_disabled, keelson.modules=boot)"
	case errors.Is(err, unix.EPERM):
		hint = "not permitted: the command line has it in module_blacklist, or CAP_SYS_MODULE is missing"
	case errors.Is(err, unix.ENOKEY), errors.Is(err, unix.EBADMSG), errors.Is(err, unix.EKEYREJECTED):
		hint = "the kernel wants modules signed with its own key"
	case errors.Is(err, unix.EINVAL):
		hint = "the kernel refused a parameter or the file; its log says which"
	case errors.Is(err, unix.ENOSYS):
		hint = "the kernel was built without loadable modules"
	case errors.Is(err, unix.ENODEV):
		hint = "it found no device of its own"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, hint)
}
