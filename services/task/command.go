package task

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/executable"
	"keelson/internal/safepath"
)

// execFailed is the exit code of a process whose command the kernel refused to
// execute: then nobody is left who could report why.
const execFailed = 255

// whyNotRun finds out why the kernel may have refused to execute a command in a
// container with that root, as the end of a sentence about the command; "" where it
// sees nothing wrong.
func whyNotRun(root string, p *specs.Process) string {
	for _, path := range candidates(p) {
		if why, found := whyNot(root, path, 0); found {
			return why
		}
	}
	return ""
}

// mostInterpreters is how many interpreters of interpreters the kernel follows.
const mostInterpreters = 5

// whyNot is whyNotRun for one file, which is looked for in the container's root.
func whyNot(root, path string, depth int) (why string, found bool) {
	f, err := openIn(root, path)
	if err != nil {
		return "", false
	}
	defer f.Close()
	program := parse(f)
	switch {
	case program.ELF:
		if other := otherMachine(program); other != "" {
			return "is a binary for " + other + ", and this machine is " + machines[native16()], true
		}
		if program.Loader == "" {
			return "", true
		}
		return whyNotInterpreter(root, program.Loader, depth), true
	case len(program.Script) == 0:
		return "is neither a binary nor a script whose first line names its interpreter, such as #!/bin/sh", true
	case strings.HasSuffix(program.Script[0], "\r"):
		return fmt.Sprintf("needs %q, which is not in the image: its lines end as on Windows (CRLF), save it with LF", program.Script[0]), true
	}
	return whyNotInterpreter(root, program.Script[0], depth), true
}

// whyNotInterpreter is whyNot for what a script or a binary needs.
func whyNotInterpreter(root, interpreter string, depth int) string {
	if depth == mostInterpreters {
		return ""
	}
	p, err := (*safepath.Resolver)(nil).In(root, interpreter, safepath.Options{})
	if err != nil {
		return ""
	}
	defer p.Close()
	var st unix.Stat_t
	switch {
	case !p.Exists():
		return "needs " + interpreter + ", which is not in the image"
	case unix.Fstat(p.FD, &st) != nil:
		return ""
	case st.Mode&0o111 == 0:
		return "needs " + interpreter + ", which is not executable"
	}
	if why, _ := whyNot(root, interpreter, depth+1); why != "" {
		return "needs " + interpreter + ", which " + why
	}
	return ""
}

// candidates are the paths in a container where its command may lie.
func candidates(p *specs.Process) []string {
	command := p.Args[0]
	if strings.Contains(command, "/") {
		if !filepath.IsAbs(command) {
			command = filepath.Join(p.Cwd, command)
		}
		return []string{command}
	}
	var paths []string
	for _, e := range p.Env {
		if list, ok := strings.CutPrefix(e, "PATH="); ok {
			paths = nil
			for dir := range strings.SplitSeq(list, ":") {
				paths = append(paths, filepath.Join(dir, command))
			}
		}
	}
	return paths
}

// Interpreter is what the first line of a script names, "" where it names none.
func Interpreter(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if script := parse(f).Script; len(script) > 0 {
		return script[0]
	}
	return ""
}

// parse reads what a file is.
func parse(f *os.File) executable.Program {
	head := make([]byte, executable.HeadSize)
	n, _ := io.ReadFull(f, head) // a shorter file ends it
	return executable.Parse(head[:n], func(start, length uint64) []byte {
		part := make([]byte, length)
		if start > math.MaxInt64 {
			return nil
		}
		if _, err := f.ReadAt(part, int64(start)); err != nil {
			return nil
		}
		return part
	})
}

// openIn opens a regular file of a container, which may change its links meanwhile: none
// leads out, and nothing else is opened.
func openIn(root, path string) (*os.File, error) {
	p, err := (*safepath.Resolver)(nil).In(root, path, safepath.Options{})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if !p.Exists() {
		return nil, &fs.PathError{Op: "open", Path: p.Path, Err: unix.ENOENT}
	}
	var st unix.Stat_t
	if err := unix.Fstat(p.FD, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is not a regular file", p.Path)
	}
	// Without O_NONBLOCK it would wait for somebody who holds a lease on the file.
	return os.OpenFile(p.Proc(), os.O_RDONLY|unix.O_NONBLOCK, 0)
}

// machines are the architectures that binaries are found for in practice, by ELF's number.
var machines = map[uint16]string{
	3: "x86 (32 bit)", 8: "MIPS", 20: "PowerPC", 21: "ppc64le", 22: "s390x", 40: "arm (32 bit)", 62: "x86-64 (amd64)", 183: "arm64 (aarch64)", 243: "riscv64",
}

// native16 is ELF's number of this machine.
func native16() uint16 {
	if runtime.GOARCH == "arm64" {
		return 183
	}
	return 62
}

// otherMachine names the architecture of a binary that is none of this machine's.
func otherMachine(p executable.Program) string {
	n := p.Machine
	if n == 0 || n == native16() || n == 3 && native16() == 62 || n == 40 && native16() == 183 {
		return "" // the kernel may run its 32 bit kin; 0 is of a file that is cut
	}
	if name := machines[n]; name != "" {
		return name
	}
	return fmt.Sprintf("another architecture (ELF machine %d)", n)
}
