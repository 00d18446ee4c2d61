// Package seccomp gives a container its seccomp filter as a finished program.
//
// libcontainer compiles a profile in the last stage of each start and of each
// exec, with libseccomp, and hands it there as JSON: more than ten milliseconds of
// a small machine for the default profile. Here the shim compiles a profile itself
// and passes the program, as a sealed memfd, to the last stage. There libcontainer
// still decides when the filter is loaded, and loads it: it is given a placeholder
// of one rule in place of the profile, and when it asks libseccomp for the program
// of that, it gets the finished one (see program.c).
//
// It promises
//   - the same answer to every call as libseccomp's program of the same profile;
//   - that a profile it cannot compile goes libcontainer's own way;
//   - that a container whose program does not arrive does not run: the placeholder
//     refuses everything;
//   - that explicit refusals, such as that of clone3 with ENOSYS, which C libraries
//     ask for with every thread, are not logged: those are a filter of their own.
package seccomp

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/syscalls"
)

// Annotation marks a configuration whose profile is a placeholder.
const Annotation = "org.keelson.seccomp"

// fileName is the memfds' name.
const fileName = "keelson-seccomp"

// highest is the last call that libseccomp knows surely: libcontainer has calls
// beyond those of a profile fail with ENOSYS.
const highest = "futex_waitv"

// Replace puts the placeholder into a configuration and returns the program that
// goes with it; nil, and the configuration as it is, where there is no profile or
// one that has to go libcontainer's way.
func Replace(s *specs.Spec) (*os.File, error) {
	if s.Linux == nil || s.Linux.Seccomp == nil {
		return nil, nil
	}
	f, err := program(s.Linux.Seccomp)
	if f == nil || err != nil {
		return nil, err
	}
	placeholder := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}, Flags: s.Linux.Seccomp.Flags,
		Syscalls: []specs.LinuxSyscall{{Names: []string{highest}, Action: specs.ActAllow}},
	}
	if s.Linux.Seccomp.DefaultAction == specs.ActLog {
		placeholder.DefaultAction = specs.ActLog // else what is beyond would be refused
		placeholder.Syscalls = nil
	}
	linux := *s.Linux
	linux.Seccomp = placeholder
	s.Linux = &linux
	annotations := map[string]string{Annotation: "compiled"}
	for k, v := range s.Annotations {
		annotations[k] = v
	}
	s.Annotations = annotations
	return f, nil
}

// Replaced reports whether a libcontainer configuration with these labels has a
// placeholder.
func Replaced(labels []string) bool { return slices.Contains(labels, Annotation+"=compiled") }

// programs are those that were made, by their profiles. Containers with the same
// profile share one, for as long as the shim lives: there are few.
var programs struct {
	sync.Mutex
	byProfile map[string]*os.File
}

// program returns the program of a profile; nil for one that is not compiled here.
func program(p *specs.LinuxSeccomp) (*os.File, error) {
	key, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	programs.Lock()
	defer programs.Unlock()
	if f := programs.byProfile[string(key)]; f != nil {
		return f, nil
	}
	quiet, main, ok := compile(p)
	if !ok {
		return nil, nil
	}
	f, err := file(quiet, main)
	if err != nil {
		return nil, err
	}
	if programs.byProfile == nil {
		programs.byProfile = map[string]*os.File{}
	}
	programs.byProfile[string(key)] = f
	return f, nil
}

// file returns a sealed file with a program: two lengths, then the quiet filter and
// the main one.
func file(quiet, main []unix.SockFilter) (*os.File, error) {
	var b strings.Builder
	for _, n := range []uint32{uint32(len(quiet)), uint32(len(main))} {
		b.Write((*[4]byte)(unsafe.Pointer(&n))[:])
	}
	for _, i := range slices.Concat(quiet, main) {
		b.Write((*[8]byte)(unsafe.Pointer(&i))[:])
	}
	fd, err := unix.MemfdCreate(fileName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), fileName)
	if _, err := f.WriteString(b.String()); err != nil {
		f.Close()
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
	}
	return f, nil
}

// Instructions of a filter; it sees struct seccomp_data.
const (
	offsetNumber, offsetArch, offsetArguments = 0, 4, 16

	load          = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	and           = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	always        = unix.BPF_JMP | unix.BPF_JA
	equal         = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	atLeast       = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	greater       = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	result        = unix.BPF_RET | unix.BPF_K
	auditX86_64   = 0xc000003e
	x32           = 0x40000000
	killThread    = 0x00000000
	refuse        = 0x00050000
	logAction     = 0x7ffc0000
	allow         = 0x7fff0000
	longestBranch = 255
)

func op(code int, k uint32) unix.SockFilter { return unix.SockFilter{Code: uint16(code), K: k} }

func branch(code int, k uint32, yes, no int) unix.SockFilter {
	return unix.SockFilter{Code: uint16(code), K: k, Jt: uint8(yes), Jf: uint8(no)}
}

// rules are what a profile says of one call: whether it is always allowed, else the
// conditions under each of which it is.
type rules struct {
	unconditional bool
	conditions    []specs.LinuxSeccompArg
}

// compile makes two filters of a profile: one for the explicit refusals, and the
// main one. It knows what the default profile is made of; ok is false for anything
// else.
func compile(p *specs.LinuxSeccomp) (quiet, main []unix.SockFilter, ok bool) {
	rest := uint32(0) // what comes of calls without a rule
	switch p.DefaultAction {
	case specs.ActErrno:
		rest = refuse | uint32(unix.EPERM)
	case specs.ActLog:
		rest = logAction
	default:
		return nil, nil, false
	}
	if p.DefaultErrnoRet != nil || p.ListenerPath != "" || !slices.Equal(p.Architectures, []specs.Arch{specs.ArchX86_64}) {
		return nil, nil, false
	}
	allowed, refused := map[int]*rules{}, map[int]uint{}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			nr, known := syscalls.Number(name)
			switch {
			case !known: // of another architecture
			case s.Action == specs.ActErrno && s.ErrnoRet != nil && len(s.Args) == 0 && *s.ErrnoRet < 4096:
				refused[nr] = *s.ErrnoRet
			case s.Action == specs.ActAllow && len(s.Args) <= 1 && !slices.ContainsFunc(s.Args, unusual):
				r := allowed[nr]
				if r == nil {
					r = &rules{}
					allowed[nr] = r
				}
				r.unconditional = r.unconditional || len(s.Args) == 0
				r.conditions = append(r.conditions, s.Args...)
			default:
				return nil, nil, false
			}
		}
	}
	for nr := range refused {
		if allowed[nr] != nil {
			return nil, nil, false
		}
		allowed[nr] = &rules{unconditional: true}
	}
	return quietFilter(refused), mainFilter(allowed, rest), true
}

// unusual reports whether an argument is compared in a way that the default profile
// does not have.
func unusual(a specs.LinuxSeccompArg) bool {
	return a.Index > 5 || a.Op != specs.OpEqualTo && a.Op != specs.OpLessThan && a.Op != specs.OpMaskedEqual
}

// quietFilter refuses these calls, each with its error, and allows all others.
func quietFilter(refused map[int]uint) []unix.SockFilter {
	if len(refused) == 0 {
		return nil
	}
	f := []unix.SockFilter{op(load, offsetArch), branch(equal, auditX86_64, 1, 0), op(result, allow), op(load, offsetNumber)}
	for nr, errno := range refused {
		f = append(f, branch(equal, uint32(nr), 0, 1), op(result, refuse|uint32(errno)))
	}
	return append(f, op(result, allow))
}

// mainFilter is a binary search over the numbers of calls.
func mainFilter(allowed map[int]*rules, rest uint32) []unix.SockFilter {
	type segment struct {
		from uint32
		code []unix.SockFilter // what is done from there up to the next one
	}
	var segments []segment
	add := func(from int, code ...unix.SockFilter) {
		if n := len(segments); n > 0 && slices.Equal(segments[n-1].code, code) {
			return
		}
		segments = append(segments, segment{uint32(from), code})
	}
	numbers := make([]int, 0, len(allowed))
	for nr := range allowed {
		numbers = append(numbers, nr)
	}
	slices.Sort(numbers)
	next := 0
	for _, nr := range numbers {
		if nr > next {
			add(next, op(result, rest))
		}
		if r := allowed[nr]; r.unconditional {
			add(nr, op(result, allow))
		} else {
			add(nr, conditional(r.conditions, rest)...)
		}
		next = nr + 1
	}
	add(next, op(result, rest))

	var search func(s []segment) []unix.SockFilter
	search = func(s []segment) []unix.SockFilter {
		if len(s) == 1 {
			return s[0].code
		}
		middle := len(s) / 2
		below, above := search(s[:middle]), search(s[middle:])
		f := []unix.SockFilter{branch(atLeast, s[middle].from, len(below), 0)}
		if len(below) > longestBranch {
			f = []unix.SockFilter{branch(atLeast, s[middle].from, 0, 1), op(always, uint32(len(below)))}
		}
		return slices.Concat(f, below, above)
	}
	return slices.Concat([]unix.SockFilter{
		op(load, offsetArch), branch(equal, auditX86_64, 1, 0), op(result, killThread),
		op(load, offsetNumber), branch(atLeast, x32, 0, 1), op(result, killThread),
	}, search(segments))
}

// conditional allows a call under one of the conditions. An argument has 64 bits, and
// a filter sees 32 at a time.
func conditional(conditions []specs.LinuxSeccompArg, rest uint32) []unix.SockFilter {
	var f []unix.SockFilter
	for _, c := range conditions {
		low, high := op(load, uint32(offsetArguments+8*c.Index)), op(load, uint32(offsetArguments+8*c.Index+4))
		value, value2 := c.Value, c.ValueTwo
		switch c.Op {
		case specs.OpEqualTo:
			f = append(f, high, branch(equal, uint32(value>>32), 0, 3), low, branch(equal, uint32(value), 0, 1), op(result, allow))
		case specs.OpLessThan:
			f = append(f, high, branch(atLeast, uint32(value>>32), 0, 3), branch(greater, uint32(value>>32), 3, 0),
				low, branch(atLeast, uint32(value), 1, 0), op(result, allow))
		case specs.OpMaskedEqual:
			f = append(f, high, op(and, uint32(value>>32)), branch(equal, uint32(value2>>32), 0, 4),
				low, op(and, uint32(value)), branch(equal, uint32(value2), 0, 1), op(result, allow))
		}
	}
	return append(f, op(result, rest))
}
