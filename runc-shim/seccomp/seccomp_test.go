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

// decide is what the profile itself says of a call, by the OCI specification.
func decide(p *specs.LinuxSeccomp, name string, argument uint64) uint32 {
	for _, s := range p.Syscalls {
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
			syscall := syscalls.Name(int(nr))
			for _, a := range arguments {
				want := decide(p, syscall, a)
				got := call(t, main, auditX86_64, nr, a)
				if len(quiet) > 0 {
					got = min(got, call(t, quiet, auditX86_64, nr, a)) // the stricter one counts
				}
				if got != want {
					t.Fatalf("%s: %s (%d) with %#x: %#x, want %#x", name, syscall, nr, a, got, want)
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
	}
}

func TestOtherProfilesGoTheirWay(t *testing.T) {
	rule := func(change func(*specs.LinuxSyscall)) *specs.LinuxSeccomp {
		p := harden.Profile(nil, true, false)
		s := specs.LinuxSyscall{Names: []string{"kill"}, Action: specs.ActAllow}
		change(&s)
		p.Syscalls = append(p.Syscalls, s)
		return p
	}
	two := []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo}, {Index: 1, Op: specs.OpEqualTo}}
	errno := uint(1)
	for name, p := range map[string]*specs.LinuxSeccomp{
		"a default of allow":       {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64}},
		"another error by default": {DefaultAction: specs.ActErrno, DefaultErrnoRet: &errno, Architectures: []specs.Arch{specs.ArchX86_64}},
		"two architectures":        {DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86}},
		"a listener":               {DefaultAction: specs.ActErrno, ListenerPath: "/x", Architectures: []specs.Arch{specs.ArchX86_64}},
		"two arguments":            rule(func(s *specs.LinuxSyscall) { s.Names = []string{"tuxcall"}; s.Args = two }),
		"another comparison":       rule(func(s *specs.LinuxSyscall) { s.Args = []specs.LinuxSeccompArg{{Op: specs.OpGreaterEqual}} }),
		"an argument there is not": rule(func(s *specs.LinuxSyscall) { s.Args = []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}} }),
		"another action":           rule(func(s *specs.LinuxSyscall) { s.Action = specs.ActKillProcess }),
		"allowed and refused":      rule(func(s *specs.LinuxSyscall) { s.Action, s.ErrnoRet = specs.ActErrno, &errno }),
	} {
		s := &specs.Spec{Linux: &specs.Linux{Seccomp: p}}
		if f, err := Replace(s); f != nil || err != nil || s.Linux.Seccomp != p || s.Annotations != nil {
			t.Errorf("%s: replaced: %v, %v", name, f, err)
		}
	}
}

func TestReplace(t *testing.T) {
	given := &specs.Linux{Seccomp: harden.Profile(nil, true, false)}
	s := &specs.Spec{Linux: given, Annotations: map[string]string{"a": "b"}}
	f, err := Replace(s)
	if err != nil || f == nil {
		t.Fatal(f, err)
	}
	if len(given.Seccomp.Syscalls) < 5 || len(s.Linux.Seccomp.Syscalls) != 1 || s.Linux.Seccomp.DefaultAction != specs.ActErrno || !slices.Equal(s.Linux.Seccomp.Flags, given.Seccomp.Flags) {
		t.Errorf("the placeholder is %+v, and the given one %+v", s.Linux.Seccomp, given.Seccomp)
	}
	if !Replaced([]string{"a=b", Annotation + "=" + s.Annotations[Annotation]}) || Replaced([]string{"a=b"}) {
		t.Error("a placeholder is not known again")
	}
	if _, err := f.WriteAt([]byte{1}, 0); err == nil {
		t.Error("the program can be changed")
	}
	again := &specs.Spec{Linux: given}
	if g, err := Replace(again); err != nil || g != f {
		t.Errorf("the same profile has another program: %v", err)
	}
}
