package harden

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// SeccompAnnotation names the profile in a configuration that has the placeholder:
// the profile itself is some kilobytes of JSON, which the supervisor would write and
// containerd and the shim would read with each start.
const SeccompAnnotation = "org.keelson.seccomp"

// What a name is made of, besides capabilities: nameDefault comes first.
const (
	nameDefault = "default"
	nameNoRare  = "no-rare"
	nameLogOnly = "log-only"
)

// Name returns the name of the profile that Profile returns for these arguments.
func Name(capabilities []string, rare, logOnly bool) string {
	words := []string{nameDefault}
	if !rare {
		words = append(words, nameNoRare)
	}
	if logOnly {
		words = append(words, nameLogOnly)
	}
	for _, g := range grants {
		if slices.Contains(capabilities, g.capability) {
			words = append(words, g.capability)
		}
	}
	return strings.Join(words, " ")
}

// Named returns the profile with a name.
func Named(name string) (*specs.LinuxSeccomp, error) {
	words := strings.Split(name, " ")
	if words[0] != nameDefault {
		return nil, fmt.Errorf("seccomp profile %q: want a name that begins with %s", name, nameDefault)
	}
	rare, logOnly := true, false
	var capabilities []string
	for _, word := range words[1:] {
		switch {
		case word == nameNoRare:
			rare = false
		case word == nameLogOnly:
			logOnly = true
		case grantsWith(word):
			capabilities = append(capabilities, word)
		default:
			return nil, fmt.Errorf("seccomp profile %q: %q is no part of a name", name, word)
		}
	}
	return Profile(capabilities, rare, logOnly), nil
}

func grantsWith(capability string) bool {
	for _, g := range grants {
		if g.capability == capability {
			return true
		}
	}
	return false
}

// Placeholder returns what stands for a profile that the annotation names. A runtime
// that does not know the annotation kills the container with its first call.
func Placeholder() *specs.LinuxSeccomp {
	errno := placeholderErrno
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActKillProcess, DefaultErrnoRet: &errno,
		Architectures: []specs.Arch{specs.ArchX86_64}, Flags: []specs.LinuxSeccompFlag{},
	}
}

// placeholderErrno has no meaning beside a default that kills. It keeps libcontainer
// from looking for the latest call of the profile, as there is none.
var placeholderErrno uint = 0x50026

// IsPlaceholder reports whether a profile is the placeholder.
func IsPlaceholder(p *specs.LinuxSeccomp) bool {
	return p != nil && p.DefaultAction == specs.ActKillProcess && p.DefaultErrnoRet != nil && *p.DefaultErrnoRet == placeholderErrno && len(p.Syscalls) == 0
}
