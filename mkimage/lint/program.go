package lint

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/executable"
	"keelson/mkimage/view"
)

// program is what a file's beginning tells of who runs it.
type program struct {
	interpreter string // "" for none
	script      bool
	finds       string // what a script has env(1) find in PATH
	foreign     string // what it is for, if not for this kind of machine
	unknown     bool   // neither a binary nor a script
}

const (
	// maxSeek bounds how far into a file its interpreter's name is looked for.
	maxSeek = 256 << 20
	// maxScripts is how many scripts, each the interpreter of the one before, the kernel follows.
	maxScripts = 5
)

// program reads what a file is; each is read once.
func (c *checker) program(f view.Found) (program, error) {
	if p, ok := c.programs[f.File]; ok {
		return p, nil
	}
	rc, _, err := f.Open()
	if err != nil {
		return program{}, err
	}
	defer rc.Close()
	p, err := parseProgram(rc)
	if err != nil {
		return p, fmt.Errorf("read %s: %w", f.Path, err)
	}
	c.programs[f.File] = p
	return p, nil
}

func parseProgram(r io.Reader) (program, error) {
	head := make([]byte, executable.HeadSize)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return program{}, err
	}
	head = head[:n]
	file := executable.Parse(head, func(start, length uint64) []byte { return section(head, r, start, length) })
	switch {
	case len(file.Script) > 0:
		return program{interpreter: file.Script[0], script: true, finds: sought(file.Script)}, nil
	case !file.ELF || file.Cut:
		return program{unknown: true}, nil
	case file.BigEndian:
		return program{foreign: "a big-endian machine"}, nil
	}
	if name, known := elfMachines[file.Machine]; !known || name != "" {
		return program{foreign: name}, nil
	}
	return program{interpreter: file.Loader}, nil
}

// sought is what env(1) finds in PATH for a script, "" where another interpreter runs it.
func sought(script []string) string {
	if path.Base(script[0]) != "env" {
		return ""
	}
	for _, w := range script[1:] {
		if !strings.HasPrefix(w, "-") && !strings.Contains(w, "=") {
			return w
		}
	}
	return ""
}

// elfMachines are the machines of e_machine that people have images for.
var elfMachines = map[uint16]string{3: "", 62: "", 40: "32-bit ARM", 183: "ARM (aarch64)", 243: "RISC-V", 21: "PowerPC", 22: "IBM Z", 8: "MIPS", 258: "LoongArch"}

// section reads a part of a file; none if it lies too far away.
func section(head []byte, r io.Reader, start, length uint64) []byte {
	if start > maxSeek {
		return nil
	}
	all := io.MultiReader(bytes.NewReader(head), r)
	if _, err := io.CopyN(io.Discard, all, int64(start)); err != nil {
		return nil // cut short
	}
	part := make([]byte, length)
	if _, err := io.ReadFull(all, part); err != nil {
		return nil
	}
	return part
}

// place is where and by whom a program is run.
type place struct {
	find func(string) view.Found
	user *specs.User // nil for root
	path []string    // where programs are looked for; nil: nobody does
}

// Reasons of cannotRun that no mode and no interpreter changes.
const (
	isDirectory = "is a directory"
	isSpecial   = "is a pipe or a device"
	// tooManyScripts is what execve(2) calls ELOOP.
	tooManyScripts = "is a script whose interpreter is a script, and so on, further than the kernel follows"
)

// cannotRun returns why the kernel would not run a file that is there, "" if it would or
// that is not known.
func (c *checker) cannotRun(f view.Found, in place) (string, error) {
	for range maxScripts + 1 {
		switch {
		case f.Dir:
			return isDirectory, nil
		case f.State == view.There && f.File != nil && !f.Regular():
			return isSpecial, nil
		case !f.Regular():
			return "", nil
		case !executableBy(f, in.user):
			return fmt.Sprintf("is not executable (mode %04o)", f.File.Mode&0o7777), nil
		}
		p, err := c.program(f)
		if err != nil || !path.IsAbs(p.interpreter) {
			return "", err
		}
		next := in.find(p.interpreter)
		if next.State == view.Missing {
			why := fmt.Sprintf("needs %s, which is not there", strings.TrimRight(p.interpreter, "\r"))
			if strings.HasSuffix(p.interpreter, "\r") {
				why = "needs an interpreter whose name ends with a carriage return, as its lines end as on Windows"
			}
			return why, nil
		}
		if p.finds != "" && in.path != nil {
			if found := in.search(p.finds); found.State == view.Missing {
				return fmt.Sprintf("needs %s, which is in no directory of PATH", strings.TrimRight(p.finds, "\r")), nil
			}
		}
		if next.State == view.Unknown || !p.script {
			return "", nil
		}
		f = next
	}
	return tooManyScripts, nil
}

// search finds a program in PATH as execvp(3) does: what is there and cannot be executed
// only if nothing else is.
func (p place) search(name string) view.Found {
	var found view.Found
	for _, dir := range p.path {
		if !path.IsAbs(dir) {
			continue
		}
		f := p.find(path.Join(dir, name))
		if f.State == view.Unknown || f.State == view.There && !f.Dir && (!f.Regular() || executableBy(f, p.user)) {
			return f
		}
		if f.State == view.There && !f.Dir {
			found = f
		}
	}
	return found
}

// executableBy reports whether a user may execute a file by its mode.
func executableBy(f view.Found, user *specs.User) bool {
	mode := f.File.Mode
	if user == nil || user.UID == 0 {
		return mode&0o111 != 0
	}
	gids := append([]uint32{user.GID}, user.AdditionalGids...)
	if uint32(f.File.UID) == user.UID {
		return mode&0o100 != 0
	}
	for _, gid := range gids {
		if uint32(f.File.GID) == gid {
			return mode&0o010 != 0
		}
	}
	return mode&0o001 != 0
}
