package harden

import (
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/syscalls"
)

// decide is what a profile makes of a call with this first argument.
func decide(p *specs.LinuxSeccomp, name string, first uint64) (specs.LinuxSeccompAction, uint) {
	for _, s := range p.Syscalls {
		if !slices.Contains(s.Names, name) {
			continue
		}
		matches := true
		for _, a := range s.Args {
			switch a.Op {
			case specs.OpEqualTo:
				matches = matches && first == a.Value
			case specs.OpLessThan:
				matches = matches && first < a.Value
			case specs.OpMaskedEqual:
				matches = matches && first&a.Value == a.ValueTwo
			default:
				panic(a.Op)
			}
		}
		if matches {
			errno := uint(0)
			if s.ErrnoRet != nil {
				errno = *s.ErrnoRet
			}
			return s.Action, errno
		}
	}
	return p.DefaultAction, 0
}

// The profile is containerd's: for every call of the architecture, with arguments on
// both sides of each rule, and with each capability.
func TestProfileIsContainerds(t *testing.T) {
	sets := [][]string{nil, {"CAP_SYS_ADMIN", "CAP_SYSLOG", "CAP_BPF"}, {"CAP_CHOWN", "CAP_NET_ADMIN"}}
	for _, g := range grants {
		sets = append(sets, []string{g.capability})
	}
	arguments := []uint64{0x8, 0x20000, 0x20008, 0xffffffff, 0x12345678, unix.CLONE_NEWUSER, unix.CLONE_NEWCGROUP | 0x11, unix.CLONE_VM}
	for i := range uint64(64) {
		arguments = append(arguments, i)
	}
	arguments = slices.DeleteFunc(arguments, func(a uint64) bool { return a == unix.AF_UNSPEC }) // no family: refused by the kernel itself
	for _, set := range sets {
		theirs := seccomp.DefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: set}}})
		ours := Profile(set, true, false)
		for nr := range 512 {
			name := syscalls.Name(nr)
			if name == "" {
				continue
			}
			for _, a := range arguments {
				wantAction, wantErrno := decide(theirs, name, a)
				if action, errno := decide(ours, name, a); action != wantAction || errno != wantErrno {
					t.Errorf("%v: %s(%#x): %s %d, containerd has %s %d", set, name, a, action, errno, wantAction, wantErrno)
					break
				}
			}
		}
	}
	for _, name := range always {
		if _, ok := syscalls.Number(name); !ok {
			t.Errorf("%s is no call of this architecture", name)
		}
	}
}

func TestStrictRefusesRareFamilies(t *testing.T) {
	p := Profile(nil, false, false)
	for family := range uint64(64) {
		want := specs.ActErrno
		if slices.Contains([]uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}, family) {
			want = specs.ActAllow
		}
		if got, _ := decide(p, "socket", family); got != want {
			t.Errorf("family %d: %s", family, got)
		}
	}
}

func TestLoggingProfileRefusesNothing(t *testing.T) {
	p := Profile(nil, true, true)
	if got, _ := decide(p, "mount", 0); got != specs.ActLog {
		t.Errorf("mount: %s", got)
	}
	if !slices.Contains(p.Flags, specs.LinuxSeccompFlagLog) || !slices.Equal(p.Architectures, []specs.Arch{specs.ArchX86_64}) {
		t.Errorf("%v %v", p.Flags, p.Architectures)
	}
}

func TestGranting(t *testing.T) {
	for name, want := range map[string][]string{
		"mount": {"CAP_SYS_ADMIN"}, "bpf": {"CAP_SYS_ADMIN", "CAP_BPF"}, "chroot": {"CAP_SYS_CHROOT"}, "read": nil, "keyctl": nil, "kcmp": {"CAP_SYS_PTRACE"},
	} {
		if got := Granting(name); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if !Allowed("read") || Allowed("mount") || Allowed("clone") {
		t.Error("what is always allowed")
	}
}

// A profile is the same by its name, which is the same for all containers with the
// same profile.
func TestNamedProfile(t *testing.T) {
	for _, capabilities := range [][]string{nil, {"CAP_CHOWN"}, {"CAP_SYS_TIME", "CAP_CHOWN", "CAP_SYS_CHROOT"}, {"CAP_SYS_ADMIN"}} {
		for _, rare := range []bool{true, false} {
			for _, logOnly := range []bool{true, false} {
				name := Name(capabilities, rare, logOnly)
				got, err := Named(name)
				if want := Profile(capabilities, rare, logOnly); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%q: %v\n%+v, want\n%+v", name, err, got, want)
				}
			}
		}
	}
	if a, b := Name(nil, true, false), Name([]string{"CAP_CHOWN"}, true, false); a != b {
		t.Errorf("%q and %q are the same profile", a, b)
	}
	for _, wrong := range []string{"", "default ", "strict", "default CAP_CHOWN", "no-rare"} {
		if p, err := Named(wrong); err == nil {
			t.Errorf("%q is a profile: %v", wrong, p)
		}
	}
}

// A runtime that does not know the annotation lets the container do nothing.
func TestProfileByName(t *testing.T) {
	s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}, Annotations: map[string]string{"a": "b", SeccompAnnotation: "forged"}}
	got, _ := Apply(s, Strict, Options{ByName: true, LogOnly: true})
	if got.Annotations[SeccompAnnotation] != "default no-rare log-only" || got.Annotations["a"] != "b" || s.Annotations[SeccompAnnotation] != "forged" {
		t.Errorf("annotations %v, and of the given one %v", got.Annotations, s.Annotations)
	}
	p := got.Linux.Seccomp
	if !IsPlaceholder(p) || p.DefaultAction != specs.ActKillProcess || len(p.Syscalls) > 0 {
		t.Errorf("the placeholder is %+v", p)
	}
	if IsPlaceholder(nil) || IsPlaceholder(Profile(nil, true, false)) || IsPlaceholder(&specs.LinuxSeccomp{DefaultAction: specs.ActKillProcess}) {
		t.Error("another profile is taken for the placeholder")
	}
	s.Linux = &specs.Linux{Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}}
	if got, _ := Apply(s, Auto, Options{ByName: true}); got.Linux.Seccomp != s.Linux.Seccomp {
		t.Errorf("its own profile became %+v", got.Linux.Seccomp)
	}
}
