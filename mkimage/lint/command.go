package lint

import (
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/policy"
	"keelson/mkimage/view"
)

// process checks the environment and the directory that the command starts in.
func (o *one) process() {
	p := o.Bundle.Spec.Process
	for i, e := range p.Env {
		switch name, _, ok := strings.Cut(e, "="); {
		case !ok:
			o.error(index("env", i), "%q has no =: must be NAME=VALUE", e)
		case name == "":
			o.error(index("env", i), "%q has no name before the =: must be NAME=VALUE", e)
		}
	}
	if !path.IsAbs(p.Cwd) {
		o.error("cwd", "%q is not absolute: begin it with a slash, as in %s", p.Cwd, path.Join("/", p.Cwd))
		return
	}
	f := o.view.Find(p.Cwd)
	switch {
	case f.State == view.There && !f.Dir, f.State == view.Missing && f.Place == view.NotADir:
		o.error("cwd", "%s is no directory: name one, or leave it out for /", p.Cwd)
	case f.State == view.Missing && f.Place == view.Root:
		o.error("cwd", "%s is not there, and cannot be made in what is bound of the machine's read-only root: name a directory that is there", p.Cwd)
	}
}

// command checks the program that is run, and those that probes run.
func (o *one) command() {
	p := o.Bundle.Spec.Process
	o.checkProgram("command", p.Args[0])
	if s := o.Bundle.Service; s.Ready.Kind == policy.ProbeExec && len(s.Ready.Argv) > 0 {
		o.checkProgram("annotations.keelson.ready", s.Ready.Argv[0])
	}
	if s := o.Bundle.Service; s.Health.Check.Kind == policy.ProbeExec && len(s.Health.Check.Argv) > 0 {
		o.checkProgram("annotations.keelson.health", s.Health.Check.Argv[0])
	}
}

func (o *one) checkProgram(key, name string) {
	p := o.Bundle.Spec.Process
	user := &p.User
	if view.Has(o.Bundle, "CAP_DAC_OVERRIDE") {
		user = nil
	}
	dirs, known := searchPath(p)
	in := place{o.view.Find, user, dirs}
	f, ok := o.lookUp(key, name, in, known)
	if !ok {
		return
	}
	why, err := o.cannotRun(f, in)
	if err != nil {
		o.errs = append(o.errs, err)
		return
	}
	switch {
	case why == isDirectory, why == isSpecial, why == tooManyScripts:
		o.error(key, "%s %s: name a program", name, why)
	case strings.HasPrefix(why, "needs "):
		o.error(key, "%s %s: put it into the image, or name a command that does not need it", name, why)
	case why != "":
		o.error(key, "%s %s: change its mode in the image, or name another command", name, why)
	case f.Regular():
		o.checkFormat(key, name, f)
	}
}

// checkFormat warns of what the kernel itself does not run: binfmt_misc may.
func (o *one) checkFormat(key, name string, f view.Found) {
	const hint = "the kernel runs it only where a container sets up binfmt_misc for it"
	p, err := o.program(f)
	switch {
	case err != nil:
		o.errs = append(o.errs, err)
	case p.foreign != "":
		o.warn(key, "%s is a binary for %s: %s", name, p.foreign, hint)
	case p.unknown:
		o.warn(key, "%s is neither a binary nor a script whose first line names its interpreter, such as #!/bin/sh: %s", name, hint)
	}
}

// lookUp finds a program as the runtime does; ok is false if it is reported, or not known.
func (o *one) lookUp(key, name string, in place, known bool) (f view.Found, ok bool) {
	if name == "" {
		o.error(key, "begins with an empty word: name a program")
		return f, false
	}
	slash := strings.HasSuffix(name, "/")
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join("/", o.Bundle.Spec.Process.Cwd, name)
		}
		if f = o.view.Find(name); f.State == view.Missing {
			o.error(key, "%s is not in the image%s: name a program that is there, or put it there", name, boundTo(f))
		}
		if f.State == view.There && !f.Dir && slash {
			o.error(key, "%s is a file, so no slash may follow it: leave the slash out", f.Path)
			return f, false
		}
		return f, f.State == view.There
	}
	if !known {
		o.error(key, "%s has no slash, and there is no PATH in env to find it by: give its whole path, or env: [PATH=/usr/bin:/bin]", name)
		return f, false
	}
	if f = in.search(name); f.State == view.Missing {
		o.error(key, "%s is in no directory of the container's PATH (%s): name a program that is there, or put it into the image", name, strings.Join(in.path, ":"))
	}
	return f, f.State == view.There
}

// boundTo tells for an error that a path leads out of the image.
func boundTo(f view.Found) string {
	if f.Place == view.Root || f.Place == view.Area {
		return ", nor on the machine, where it is bound from"
	}
	return ""
}

// searchPath returns the directories of a process's PATH.
func searchPath(p *specs.Process) (dirs []string, known bool) {
	for _, e := range p.Env {
		if list, ok := strings.CutPrefix(e, "PATH="); ok {
			dirs, known = strings.Split(list, ":"), list != ""
		}
	}
	return dirs, known
}
