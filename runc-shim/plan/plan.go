// Package plan turns a container's configuration into the flat list of steps that make
// the container from inside of its new namespaces: what to mount where, which devices to
// make, what to hide, who to become, what to execute.
//
// A plan is data: it can be printed, compared and tested without a container. A small C
// program performs it (package executor), in place of libcontainer's last stage, which
// takes longer than everything else of a start: it is a Go program of this binary's size
// that is handed its configuration as JSON.
//
// It promises
//   - the steps that libcontainer would do, in its order;
//   - a reason where it cannot promise that (see Uncovered): such a container is
//     libcontainer's.
//
// It must never look at the machine: the same configuration makes the same plan.
package plan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// An Op is what a step does.
type Op uint32

// The steps, see executor/plan.h.
const (
	Keyring Op = iota
	Loopback
	Root
	Mount
	Device
	Link
	Hooks
	Pivot
	Propagation
	Null
	Mkdir
	Remount
	ReadonlyRoot
	Umask
	Hostname
	Domainname
	Sysctl
	ReadonlyPath
	Mask
	NoNewPrivileges
	Ready
	Seccomp
	Close
	Chdir
	Home
	Bounding
	User
	Enter
	Capabilities
	Command
	Run
)

// anyTexts is the number of texts of a step that has any number.
const anyTexts = -1

// ops are the names of steps and how many texts each has.
var ops = [...]struct {
	name  string
	texts int
}{
	{"Keyring", 1}, {"Loopback", 0}, {"Root", 1}, {"Mount", 5}, {"Device", 1}, {"Link", 3}, {"Hooks", 0}, {"Pivot", 0},
	{"Propagation", 0}, {"Null", 0}, {"Mkdir", 1}, {"Remount", 1}, {"ReadonlyRoot", 0}, {"Umask", 0}, {"Hostname", 1},
	{"Domainname", 1}, {"Sysctl", 3}, {"ReadonlyPath", 1}, {"Mask", 1}, {"NoNewPrivileges", 0}, {"Ready", 0}, {"Seccomp", 1},
	{"Close", 0}, {"Chdir", 1}, {"Home", 0}, {"Bounding", 0}, {"User", 1}, {"Enter", 1}, {"Capabilities", 0},
	{"Command", anyTexts}, {"Run", 0},
}

func (o Op) String() string {
	if int(o) < len(ops) {
		return ops[o].name
	}
	return "Op" + strconv.Itoa(int(o))
}

// A Kind is a kind of mount that has rules of its own.
type Kind uint64

// The kinds of mounts.
const (
	Other Kind = iota
	Proc
	Sysfs
	Tmpfs
	Bind
)

// A Step is one thing to do. Texts may hold any bytes; a step that has paths or other
// strings of the kernel has none with a zero byte.
type Step struct {
	Op      Op
	Numbers [4]uint64
	Texts   []string
}

// A Plan is a list of steps, which end with Run.
type Plan struct {
	// Report is the descriptor that the error of a failed exec is written to.
	Report uint32
	Steps  []Step
}

const (
	magic    = "keelplan"
	headSize = len(magic) + 8
	stepSize = 8 + 4*8
	// mostSize bounds a plan: the kernel takes no command of more than 6 MiB.
	mostSize = 16 << 20
)

// Encode returns the plan as the executor reads it: numbers in the machine's order, each
// text with its length before it and a zero behind, all at multiples of eight bytes.
func (p *Plan) Encode() ([]byte, error) {
	b := make([]byte, headSize, 4096)
	copy(b, magic)
	for _, s := range p.Steps {
		b = binary.NativeEndian.AppendUint32(b, uint32(s.Op))
		b = binary.NativeEndian.AppendUint32(b, uint32(len(s.Texts)))
		for _, n := range s.Numbers {
			b = binary.NativeEndian.AppendUint64(b, n)
		}
		for _, t := range s.Texts {
			b = binary.NativeEndian.AppendUint64(b, uint64(len(t)))
			b = append(b, t...)
			b = append(b, make([]byte, 8-len(t)%8)...)
		}
	}
	if len(b) > mostSize {
		return nil, fmt.Errorf("the plan has %d bytes, more than %d", len(b), mostSize)
	}
	binary.NativeEndian.PutUint32(b[len(magic):], uint32(len(b)))
	binary.NativeEndian.PutUint32(b[len(magic)+4:], p.Report)
	return b, nil
}

var errDamaged = errors.New("the plan is damaged")

// Decode reads what Encode wrote, and refuses what the executor would refuse.
func Decode(b []byte) (*Plan, error) {
	if len(b) < headSize || len(b) > mostSize || string(b[:len(magic)]) != magic || int(binary.NativeEndian.Uint32(b[len(magic):])) != len(b) {
		return nil, errDamaged
	}
	p := &Plan{Report: binary.NativeEndian.Uint32(b[len(magic)+4:])}
	for b = b[headSize:]; len(b) > 0; {
		if len(b) < stepSize {
			return nil, errDamaged
		}
		s := Step{Op: Op(binary.NativeEndian.Uint32(b))}
		texts := binary.NativeEndian.Uint32(b[4:])
		for i := range s.Numbers {
			s.Numbers[i] = binary.NativeEndian.Uint64(b[8+8*i:])
		}
		b = b[stepSize:]
		if int(s.Op) >= len(ops) || ops[s.Op].texts != anyTexts && ops[s.Op].texts != int(texts) {
			return nil, fmt.Errorf("the plan has an unknown step %v with %d texts", s.Op, texts)
		}
		for range texts {
			var t string
			var ok bool
			if t, b, ok = text(b); !ok {
				return nil, errDamaged
			}
			s.Texts = append(s.Texts, t)
		}
		p.Steps = append(p.Steps, s)
	}
	return p, nil
}

func text(b []byte) (string, []byte, bool) {
	if len(b) < 8 {
		return "", nil, false
	}
	n := binary.NativeEndian.Uint64(b)
	b = b[8:]
	if n >= uint64(len(b)) {
		return "", nil, false
	}
	size := (n + 8) &^ 7
	if size > uint64(len(b)) || bytes.ContainsFunc(b[n:size], func(r rune) bool { return r != 0 }) {
		return "", nil, false
	}
	return string(b[:n]), b[size:], true
}

// String prints the plan, a step a line.
func (p *Plan) String() string {
	var b strings.Builder
	for _, s := range p.Steps {
		b.WriteString(s.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// String prints a step: its name, its numbers up to the last that is not zero, its texts.
func (s Step) String() string {
	words := []string{s.Op.String()}
	last := len(s.Numbers)
	for last > 0 && s.Numbers[last-1] == 0 {
		last--
	}
	for _, n := range s.Numbers[:last] {
		words = append(words, fmt.Sprintf("%#x", n))
	}
	for _, t := range s.Texts {
		if s.Op == Seccomp {
			words = append(words, fmt.Sprintf("(%d bytes)", len(t)))
			continue
		}
		words = append(words, strconv.Quote(t))
	}
	return strings.Join(words, " ")
}

// File returns the plan as a sealed file to pass to the executor, which takes the last
// file that is passed. The caller closes it.
func (p *Plan) File() (*os.File, error) {
	data, err := p.Encode()
	if err != nil {
		return nil, err
	}
	const name = "keelson-plan"
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("write the plan: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
	}
	return f, nil
}
