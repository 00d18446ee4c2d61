package seccomp

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"keelson/internal/harden"
	"keelson/internal/syscalls"
)

// call is what a filter makes of a system call.
func call(t *testing.T, filter []unix.SockFilter, arch uint32, nr uint32, arguments ...uint64) uint32 {
	t.Helper()
	// The machine of the test reads the packets of a network, big-endian.
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data, nr)
	binary.BigEndian.PutUint32(data[4:], arch)
	for i, a := range arguments {
		binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[16+8*i+4:], uint32(a>>32))
	}
	raw := make([]bpf.RawInstruction, len(filter))
	for i, f := range filter {
		raw[i] = bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("not all of the filter is instructions")
	}
	m, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

// decide is what the profile itself says of a call, by the OCI specification; of calls
// beyond its last one, what libcontainer adds to it.
func decide(p *specs.LinuxSeccomp, nr int, argument uint64) uint32 {
	name, last := syscalls.Name(nr), 0
	for _, s := range p.Syscalls {
		for _, n := range s.Names {
			n, _ := syscalls.Number(n)
			last = max(last, n)
		}
		if !slices.Contains(s.Names, name) {
			continue
		}
		if len(s.Args) == 1 {
			a := s.Args[0]
			if !(a.Op == specs.OpEqualTo && argument == a.Value || a.Op == specs.OpLessThan && argument < a.Value ||
				a.Op == specs.OpMaskedEqual && argument&a.Value == a.ValueTwo) {
				continue
			}
		}
		if s.Action == specs.ActAllow {
			return allow
		}
		return refuse | uint32(*s.ErrnoRet)
	}
	if p.DefaultAction == specs.ActLog {
		return logAction
	}
	if nr > last {
		return refuse | uint32(unix.ENOSYS)
	}
	return refuse | uint32(unix.EPERM)
}

func TestProgramDoesWhatTheProfileSays(t *testing.T) {
	arguments := []uint64{8, 0x20000, 0x20008, 0xffffffff, 1 << 32, 1<<32 | 2, 1<<32 | 0x8, 0xffffffffffffffff, unix.CLONE_NEWUSER, unix.CLONE_NEWNET | 17, unix.CLONE_VM | 17}
	for i := range uint64(50) {
		arguments = append(arguments, i)
	}
	admin := []string{"CAP_SYS_ADMIN", "CAP_SYSLOG", "CAP_BPF"}
	for name, p := range map[string]*specs.LinuxSeccomp{
		"default": harden.Profile(nil, true, false), "strict": harden.Profile(nil, false, false), "logging": harden.Profile(nil, true, true),
		"admin": harden.Profile(admin, true, false), "other": harden.Profile([]string{"CAP_SYS_TIME", "CAP_SYS_CHROOT"}, true, false),
	} {
		quiet, main, ok := compile(p)
		if !ok {
			t.Fatalf("%s: not compiled", name)
		}
		for nr := range uint32(600) {
			for _, a := range arguments {
				want := decide(p, int(nr), a)
				// The stricter one counts.
				if got := min(call(t, main, auditX86_64, nr, a), call(t, quiet, auditX86_64, nr, a)); got != want {
					t.Fatalf("%s: %s (%d) with %#x: %#x, want %#x", name, syscalls.Name(int(nr)), nr, a, got, want)
				}
			}
		}
		if got := call(t, main, auditX86_64, x32|1); got != killThread {
			t.Errorf("%s: a call of x32: %#x", name, got)
		}
		if got := call(t, main, 0x40000003, 1); got != killThread {
			t.Errorf("%s: a call of a 32-bit program: %#x", name, got)
		}
		// What is refused explicitly is let through by the main filter, which logs.
		if nr, _ := syscalls.Number("clone3"); call(t, main, auditX86_64, uint32(nr)) != allow {
			t.Errorf("%s: clone3 is refused where refusals are logged", name)
		}
		// The kernel blinds each constant with each start, and moves the rest of the program
		// for it.
		if len(main) > 100 {
			t.Errorf("%s: the program has %d instructions", name, len(main))
		}
	}
}

// Branches reach 255 instructions; an answer that is farther away is there twice.
func TestLongProgram(t *testing.T) {
	allowed := map[int]*rules{}
	for nr := range 2000 {
		if nr%5 < 2 {
			allowed[nr] = &rules{unconditional: true}
		}
	}
	f := mainFilter(allowed, refuse|1, refuse|2)
	for nr := range uint32(2100) {
		want := uint32(refuse | 1)
		switch {
		case nr > 1996:
			want = refuse | 2
		case nr%5 < 2:
			want = allow
		}
		if got := call(t, f, auditX86_64, nr); got != want {
			t.Fatalf("%d: %#x, want %#x", nr, got, want)
		}
	}
}

func TestUnknownRulesAreNotCompiled(t *testing.T) {
	rule := func(change func(*specs.LinuxSyscall)) *specs.LinuxSeccomp {
		p := harden.Profile(nil, true, false)
		s := specs.LinuxSyscall{Names: []string{"tuxcall"}, Action: specs.ActAllow}
		change(&s)
		p.Syscalls = append(p.Syscalls, s)
		return p
	}
	argument := func(a ...specs.LinuxSeccompArg) func(*specs.LinuxSyscall) {
		return func(s *specs.LinuxSyscall) { s.Args = a }
	}
	errno := uint(1)
	for name, p := range map[string]*specs.LinuxSeccomp{
		"a default of allow":       {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64}},
		"another error by default": {DefaultAction: specs.ActErrno, DefaultErrnoRet: &errno, Architectures: []specs.Arch{specs.ArchX86_64}},
		"two architectures":        {DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86}},
		"a listener":               {DefaultAction: specs.ActErrno, ListenerPath: "/x", Architectures: []specs.Arch{specs.ArchX86_64}},
		"two arguments":            rule(argument(specs.LinuxSeccompArg{Op: specs.OpEqualTo}, specs.LinuxSeccompArg{Index: 1, Op: specs.OpEqualTo})),
		"another comparison":       rule(argument(specs.LinuxSeccompArg{Op: specs.OpGreaterEqual})),
		"an argument there is not": rule(argument(specs.LinuxSeccompArg{Index: 6, Op: specs.OpEqualTo})),
		"a large number":           rule(argument(specs.LinuxSeccompArg{Op: specs.OpEqualTo, Value: 1 << 32})),
		"bits that must be set":    rule(argument(specs.LinuxSeccompArg{Op: specs.OpMaskedEqual, Value: 3, ValueTwo: 1})),
		"another argument": rule(func(s *specs.LinuxSyscall) {
			s.Names = []string{"socket"}
			argument(specs.LinuxSeccompArg{Index: 1, Op: specs.OpEqualTo})(s)
		}),
		"bits and a number": rule(func(s *specs.LinuxSyscall) {
			s.Names = []string{"socket"}
			argument(specs.LinuxSeccompArg{Op: specs.OpMaskedEqual, Value: 3})(s)
		}),
		"another action":      rule(func(s *specs.LinuxSyscall) { s.Action = specs.ActKillProcess }),
		"allowed and refused": rule(func(s *specs.LinuxSyscall) { s.Names, s.Action, s.ErrnoRet = []string{"kill"}, specs.ActErrno, &errno }),
	} {
		if _, _, ok := compile(p); ok {
			t.Errorf("%s: compiled", name)
		}
	}
	if _, _, ok := compile(rule(func(*specs.LinuxSyscall) {})); !ok {
		t.Error("a rule as all others is not compiled")
	}
}

func TestProgram(t *testing.T) {
	s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}, Annotations: map[string]string{"a": "b"}}
	s, _ = harden.Apply(s, harden.Auto, harden.Options{ByName: true})
	f, err := Program(s)
	if err != nil || f == nil {
		t.Fatal(f, err)
	}
	if _, err := f.WriteAt([]byte{1}, 0); err == nil {
		t.Error("the program can be changed")
	}
	if g, err := Program(s); err != nil || g != f {
		t.Errorf("the same profile has another program: %v, %v", g, err)
	}
	s.Annotations[harden.SeccompAnnotation] = "default log-only"
	if g, err := Program(s); err != nil || g == nil || g == f {
		t.Errorf("another profile has the same program: %v, %v", g, err)
	}
	for _, wrong := range []string{"", "other", "default CAP_NONE"} {
		s.Annotations[harden.SeccompAnnotation] = wrong
		if g, err := Program(s); err == nil {
			t.Errorf("%q: a program %v", wrong, g)
		}
	}
	delete(s.Annotations, harden.SeccompAnnotation)
	if g, err := Program(s); err == nil {
		t.Errorf("a placeholder without a name has a program %v", g)
	}
	// A profile of its own wins over a name.
	s.Annotations[harden.SeccompAnnotation] = "default"
	s.Linux.Seccomp = harden.Profile(nil, true, false)
	if g, err := Program(s); err != nil || g != nil {
		t.Errorf("a profile that is there has a program %v, %v", g, err)
	}
}
