package seccomp

import (
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/syscalls"
)

// Instructions of a filter; it sees struct seccomp_data.
const (
	offsetNumber, offsetArch, offsetArguments = 0, 4, 16

	load        = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	always      = unix.BPF_JMP | unix.BPF_JA
	equal       = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	anyOf       = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	atLeast     = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	result      = unix.BPF_RET | unix.BPF_K
	auditX86_64 = 0xc000003e
	x32         = 0x40000000
	killThread  = 0x00000000
	refuse      = 0x00050000
	logAction   = 0x7ffc0000
	allow       = 0x7fff0000
)

// A program is written from its end: instructions jump forward only, so that what
// they jump to is there. The kernel translates each instruction with each start, and
// hides each of its constants, which costs more the longer the program is.
type program []unix.SockFilter // the last instruction first

// A place is an instruction's, counted from the end.
type place int

// reach is how far a branch goes, less what may come between it and its target.
const reach = 255 - 4

func (p *program) add(code int, k uint32) place {
	*p = append(*p, unix.SockFilter{Code: uint16(code), K: k})
	return place(len(*p) - 1)
}

// near returns a place from which the next branch gets to another.
func (p *program) near(to place) place {
	if away := len(*p) - 1 - int(to); away > reach {
		return p.add(always, uint32(away))
	}
	return to
}

func (p *program) branch(code int, k uint32, yes, no place) place {
	yes, no = p.near(yes), p.near(no)
	next := len(*p) - 1
	*p = append(*p, unix.SockFilter{Code: uint16(code), K: k, Jt: uint8(next - int(yes)), Jf: uint8(next - int(no))})
	return place(next + 1)
}

// answer returns the nearest place with an answer.
func (p *program) answer(k uint32) place {
	for i := len(*p) - 1; i >= 0 && len(*p)-1-i <= reach; i-- {
		if (*p)[i] == (unix.SockFilter{Code: result, K: k}) {
			return place(i)
		}
	}
	return p.add(result, k)
}

// finished returns the program in the order of the kernel.
func (p program) finished() []unix.SockFilter {
	p = slices.Clone(p)
	slices.Reverse(p)
	return p
}

// rules are what a profile has for one call: whether it is always allowed, else the
// conditions under each of which it is.
type rules struct {
	unconditional bool
	conditions    []specs.LinuxSeccompArg
}

// compile makes two filters of a default profile: one for the explicit refusals, and
// the main one. It knows what such a profile is made of; ok is false for anything else.
func compile(p *specs.LinuxSeccomp) (quiet, main []unix.SockFilter, ok bool) {
	rest, beyond := uint32(refuse|unix.EPERM), uint32(refuse|unix.ENOSYS)
	switch {
	case p.DefaultErrnoRet != nil || p.ListenerPath != "" || !slices.Equal(p.Architectures, []specs.Arch{specs.ArchX86_64}):
		return nil, nil, false
	case p.DefaultAction == specs.ActLog:
		rest, beyond = logAction, logAction
	case p.DefaultAction != specs.ActErrno:
		return nil, nil, false
	}
	allowed, refused := map[int]*rules{}, map[int]uint32{}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			nr, known := syscalls.Number(name)
			if !known { // of another architecture
				continue
			}
			r := allowed[nr]
			if r == nil {
				r = &rules{}
				allowed[nr] = r
			}
			switch {
			case s.Action == specs.ActAllow && len(s.Args) == 0:
				r.unconditional = true
			case s.Action == specs.ActAllow && len(s.Args) == 1:
				r.conditions = append(r.conditions, s.Args...)
			case s.Action == specs.ActErrno && s.ErrnoRet != nil && *s.ErrnoRet < 4096 && len(s.Args) == 0:
				refused[nr] = refuse | uint32(*s.ErrnoRet)
			default:
				return nil, nil, false
			}
		}
	}
	for nr, r := range allowed {
		_, no := refused[nr]
		if no && (r.unconditional || len(r.conditions) > 0) || !usual(r.conditions) {
			return nil, nil, false
		}
		r.unconditional = r.unconditional || no // the main filter logs
	}
	return quietFilter(refused), mainFilter(allowed, rest, beyond), true
}

// quietFilter refuses these calls, each with its error, and allows all others.
func quietFilter(refused map[int]uint32) []unix.SockFilter {
	var p program
	pass := p.answer(allow)
	first := pass
	for _, nr := range slices.Sorted(maps.Keys(refused)) {
		first = p.branch(equal, uint32(nr), p.answer(refused[nr]), first)
	}
	if len(refused) > 0 {
		first = p.add(load, offsetNumber)
		p.branch(equal, auditX86_64, first, pass)
		p.add(load, offsetArch)
	}
	return p.finished()
}

// A segment is a run of calls with the same answer, up to the next segment's. Single
// calls in between with another answer are exceptions: one comparison each, where a
// segment of their own would take two.
type segment struct {
	from       uint32
	to         place
	exceptions []segment
}

// mostExceptions bounds how many comparisons follow each other.
const mostExceptions = 3

// mainFilter is a binary search over the numbers of calls.
func mainFilter(allowed map[int]*rules, rest, beyond uint32) []unix.SockFilter {
	var p program
	p.answer(rest)
	p.answer(allow)
	var segments []segment
	add := func(from int, to place) {
		if n := len(segments); n == 0 || segments[n-1].to != to {
			segments = append(segments, segment{from: uint32(from), to: to})
		}
	}
	next := 0
	for _, nr := range slices.Sorted(maps.Keys(allowed)) {
		if nr > next {
			add(next, p.answer(rest))
		}
		if r := allowed[nr]; r.unconditional {
			add(nr, p.answer(allow))
		} else {
			add(nr, p.conditional(r.conditions, rest))
		}
		next = nr + 1
	}
	add(next, p.answer(beyond))

	first := p.search(merged(segments))
	p.branch(atLeast, x32, p.answer(killThread), first)
	first = p.add(load, offsetNumber)
	p.branch(equal, auditX86_64, first, p.answer(killThread))
	p.add(load, offsetArch)
	return p.finished()
}

// merged returns the segments with single calls between two of the same answer as
// their exceptions.
func merged(s []segment) []segment {
	var list []segment
	for i := 0; i < len(s); i++ {
		m := s[i]
		for len(m.exceptions) < mostExceptions && i+2 < len(s) && s[i+2].to == m.to && s[i+2].from == s[i+1].from+1 {
			m.exceptions = append(m.exceptions, s[i+1])
			i += 2
		}
		list = append(list, m)
	}
	return list
}

// search finds the answer to a number.
func (p *program) search(s []segment) place {
	if len(s) == 1 {
		to := s[0].to
		for _, e := range s[0].exceptions {
			to = p.branch(equal, e.from, e.to, to)
		}
		return to
	}
	middle := len(s) / 2
	above := p.search(s[middle:])
	below := p.search(s[:middle])
	return p.branch(atLeast, s[middle].from, above, below)
}

// conditional allows a call under one of the conditions. An argument has 64 bits, and
// a filter sees 32 at a time.
func (p *program) conditional(conditions []specs.LinuxSeccompArg, rest uint32) place {
	yes, no := p.answer(allow), p.answer(rest)
	low := uint32(offsetArguments + 8*conditions[0].Index)
	next := no
	for _, c := range slices.Backward(conditions) {
		switch c.Op {
		case specs.OpEqualTo:
			next = p.branch(equal, uint32(c.Value), yes, next)
		case specs.OpLessThan:
			next = p.branch(atLeast, uint32(c.Value), next, yes)
		case specs.OpMaskedEqual:
			p.branch(anyOf, uint32(c.Value), next, yes)
			return p.add(load, low)
		}
	}
	next = p.add(load, low)
	p.branch(equal, 0, next, no)
	return p.add(load, low+4)
}

// usual reports whether conditions are such as the default profile has: numbers of 32
// bits that one argument is compared with, or bits of which it has none.
func usual(conditions []specs.LinuxSeccompArg) bool {
	return !slices.ContainsFunc(conditions, func(c specs.LinuxSeccompArg) bool {
		switch {
		case c.Index != conditions[0].Index || c.Index > 5 || c.Value>>32 != 0 || c.ValueTwo != 0:
			return true
		case c.Op == specs.OpMaskedEqual:
			return len(conditions) > 1
		}
		return c.Op != specs.OpEqualTo && c.Op != specs.OpLessThan
	})
}
