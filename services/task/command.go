package task

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

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
	head := readHead(f)
	interpreter := interpreterIn(head)
	switch {
	case strings.HasPrefix(head, "\x7fELF"):
		if other := otherMachine(head); other != "" {
			return "is a binary for " + other + ", and this machine is " + machines[native16()], true
		}
		if interpreter = loaderOf(f); interpreter == "" {
			return "", true
		}
	case interpreter == "":
		return "is neither a binary nor a script whose first line names its interpreter, such as #!/bin/sh", true
	case strings.HasSuffix(interpreter, "\r"):
		return fmt.Sprintf("needs %q, which is not in the image: its lines end as on Windows (CRLF), save it with LF", interpreter), true
	}
	return whyNotInterpreter(root, interpreter, depth), true
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
	return interpreterIn(readHead(f))
}

// readHead is the beginning of a file.
func readHead(f *os.File) string {
	head := make([]byte, 256)
	n, _ := io.ReadFull(f, head) // a shorter file ends it
	return string(head[:n])
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

// interpreterIn is what a script's first line names, as the kernel reads it: a carriage
// return is part of a name.
func interpreterIn(head string) string {
	line, _, _ := strings.Cut(head, "\n")
	words, ok := strings.CutPrefix(line, "#!")
	fields := strings.FieldsFunc(words, func(r rune) bool { return r == ' ' || r == '\t' })
	if !ok || len(fields) == 0 {
		return ""
	}
	return fields[0]
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
func otherMachine(head string) string {
	if len(head) < 20 {
		return ""
	}
	n := binary.LittleEndian.Uint16([]byte(head[18:20]))
	if head[5] == 2 {
		n = binary.BigEndian.Uint16([]byte(head[18:20]))
	}
	if n == native16() || n == 3 && native16() == 62 || n == 40 && native16() == 183 {
		return "" // the kernel may run its 32 bit kin
	}
	if name := machines[n]; name != "" {
		return name
	}
	return fmt.Sprintf("another architecture (ELF machine %d)", n)
}

// loaderOf is the dynamic loader that a 64 bit binary asks for; "" is none.
func loaderOf(f *os.File) string {
	const interp = 3 // PT_INTERP
	var head [64]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || head[4] != 2 || head[5] != 1 {
		return ""
	}
	le := binary.LittleEndian
	at, size, count := int64(le.Uint64(head[32:])), int64(le.Uint16(head[54:])), int64(le.Uint16(head[56:]))
	for i := range count {
		var segment [56]byte
		if _, err := f.ReadAt(segment[:], at+i*size); err != nil {
			return ""
		}
		if le.Uint32(segment[:]) != interp {
			continue
		}
		name := make([]byte, min(le.Uint64(segment[32:]), unix.PathMax))
		if _, err := f.ReadAt(name, int64(le.Uint64(segment[8:]))); err != nil {
			return ""
		}
		return strings.TrimRight(string(name), "\x00")
	}
	return ""
}
