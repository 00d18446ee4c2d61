// Package sysctl owns the kernel settings that harden the machine: which, to what
// value, and why (Table).
//
// It promises that
//   - nothing it sets is final: an image's own sysctl container can set each of them
//     to anything, except for kexec, which is locked only on request;
//   - a setting that is stricter already stays as it is, and so does one that the
//     kernel command line gives;
//   - what the kernel lacks is no error.
//
// It must never run after the image's own containers did.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Setting is one kernel setting. A * in a name stands for each network interface
// there is, and for those of the future (default).
type Setting struct {
	Name, Value string
	// Keep reports whether the value that the kernel has stays; nil replaces all.
	Keep func(has int) bool
	// Words of the kernel command line that decide it, beside sysctl.NAME=.
	Words []string
	Why   string
}

// atLeast keeps what is as strict, or as large, as n.
func atLeast(n int) func(int) bool { return func(has int) bool { return has >= n } }

// notZero keeps all but 0.
func notZero(has int) bool { return has != 0 }

// Table returns the settings in the order in which they are set.
func Table() []Setting {
	return []Setting{
		{Name: "dev.tty.ldisc_autoload", Value: "0", Why: "no process without CAP_SYS_MODULE loads a line discipline"},
		{Name: "dev.tty.legacy_tiocsti", Value: "0", Why: "nobody types into another's terminal"},
		{Name: "fs.protected_symlinks", Value: "1", Why: "no link of another user is followed in /tmp"},
		{Name: "fs.protected_hardlinks", Value: "1", Why: "no hard link to a file that one may not write"},
		{Name: "fs.protected_fifos", Value: "2", Why: "no FIFO of another user is opened for a file that was to be created in /tmp"},
		{Name: "fs.protected_regular", Value: "2", Why: "likewise no regular file"},
		{Name: "fs.suid_dumpable", Value: "0", Why: "a process that changed its rights leaves no core"},
		{Name: "kernel.kptr_restrict", Value: "2", Keep: atLeast(2), Why: "no kernel address is shown, not to root either"},
		{Name: "kernel.dmesg_restrict", Value: "1", Keep: atLeast(1), Why: "the kernel's log takes CAP_SYSLOG"},
		{Name: "kernel.perf_event_paranoid", Value: "3", Keep: atLeast(3), Why: "performance counters take CAP_PERFMON"},
		{Name: "kernel.yama.ptrace_scope", Value: "1", Keep: atLeast(1), Why: "without CAP_SYS_PTRACE a process traces its children only"},
		// 1 forbids the same and cannot be undone.
		{Name: "kernel.unprivileged_bpf_disabled", Value: "2", Keep: notZero, Why: "bpf(2) takes CAP_BPF"},
		{Name: "net.core.bpf_jit_harden", Value: "2", Keep: atLeast(2), Why: "constants in compiled BPF programs are blinded"},
		{Name: "vm.unprivileged_userfaultfd", Value: "0", Why: "no process without CAP_SYS_PTRACE holds the kernel up in a page fault"},
		// Empty, and no number added to it: the kernel then has no name to write a core
		// to, and starts no program.
		{Name: "kernel.core_pattern", Value: "", Why: "a crash writes no file and starts no program"},
		{Name: "kernel.core_uses_pid", Value: "0", Why: "without a pattern the number alone would be a file's name"},
		{Name: "kernel.sysrq", Value: "432", Words: []string{"sysrq_always_enabled"}, Why: "sync, remount, reboot and nice of real-time tasks only"},
		{Name: "kernel.panic", Value: "10", Words: []string{"panic"}, Keep: notZero, Why: "after a panic the machine boots again"},
		{Name: "kernel.panic_on_oops", Value: "1", Words: []string{"oops"}, Why: "a kernel that has failed does not go on with what an attacker left of it"},
		// The kernel takes the larger of all's and the interface's. With all alone an image
		// that sets all has its word for each interface.
		{Name: "net.ipv4.conf.all.rp_filter", Value: "2", Keep: notZero, Why: "no packet with a source that no route leads to"},
		{Name: "net.ipv4.conf.all.accept_source_route", Value: "0", Why: "a packet's sender does not choose its way"},
		{Name: "net.ipv6.conf.all.accept_source_route", Value: "0", Keep: func(has int) bool { return has <= 0 }, Why: "likewise"},
		{Name: "net.ipv4.conf.*.accept_redirects", Value: "0", Why: "no neighbour changes the routes"},
		{Name: "net.ipv4.conf.*.secure_redirects", Value: "0", Why: "likewise, nor one that pretends to be the gateway"},
		{Name: "net.ipv4.conf.*.send_redirects", Value: "0", Why: "the machine is no router that advises others"},
		{Name: "net.ipv6.conf.*.accept_redirects", Value: "0", Why: "no neighbour changes the routes"},
		// The memory of open files is charged to who opens them, and so bounded without this.
		{Name: "fs.file-max", Value: "9223372036854775807", Why: "no container opens the last file that the machine may have open"},
		{Name: "fs.epoll.max_user_watches", Value: "1073741824", Keep: atLeast(1073741824), Why: "likewise: containers share uid 0 with the machine's own parts"},
		{Name: "fs.inotify.max_user_instances", Value: "1024", Keep: atLeast(1024), Why: "containers share uid 0, and so the kernel's 128"},
	}
}

// kexec is set only where the kernel command line asks for it: it cannot be undone.
var kexec = Setting{Name: "kernel.kexec_load_disabled", Value: "1", Keep: notZero, Why: "no other kernel is started"}

// Settings sets kernel settings below Root.
type Settings struct {
	Root    string // /proc/sys
	Cmdline string // the kernel's command line, whose own settings stay
}

// Harden sets the table. The errors are about single settings; the others are set.
func (s Settings) Harden() error { return s.apply(Table()) }

// LockKexec keeps the machine from starting another kernel until it is reset.
func (s Settings) LockKexec() error { return s.apply([]Setting{kexec}) }

// LockModules keeps the kernel from loading any module until it is reset.
func (s Settings) LockModules() error {
	return s.apply([]Setting{{Name: "kernel.modules_disabled", Value: "1", Keep: notZero}})
}

func (s Settings) apply(table []Setting) error {
	given := s.given()
	var errs []error
	for _, t := range table {
		if given.words(t.Words) {
			continue
		}
		for _, path := range s.paths(t.Name) {
			if given.settings[path] {
				continue
			}
			if err := s.set(path, t); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("set %s to %q: %w", strings.ReplaceAll(path, "/", "."), t.Value, err))
			}
		}
	}
	return errors.Join(errs...)
}

// paths returns the files of a setting, relative to Root. default comes first: an
// interface that appears meanwhile has its values from there or is in the list.
func (s Settings) paths(name string) []string {
	before, after, each := strings.Cut(strings.ReplaceAll(name, ".", "/"), "*")
	if !each {
		return []string{before}
	}
	paths := []string{before + "default" + after}
	entries, err := os.ReadDir(filepath.Join(s.Root, before))
	if err != nil {
		return nil // a kernel without this protocol
	}
	for _, e := range entries {
		if e.Name() != "default" {
			paths = append(paths, before+e.Name()+after)
		}
	}
	return paths
}

// set writes one setting, with plain system calls: os.File would have each watched
// for events, as a setting can be polled.
func (s Settings) set(path string, t Setting) error {
	fd, err := unix.Open(filepath.Join(s.Root, path), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if t.Keep != nil {
		var buf [32]byte
		n, err := unix.Pread(fd, buf[:], 0)
		if err != nil {
			return err
		}
		if has, err := strconv.Atoi(strings.TrimSpace(string(buf[:n]))); err == nil && t.Keep(has) {
			return nil
		}
	}
	// A write of no bytes would not arrive.
	_, err = unix.Pwrite(fd, []byte(t.Value+"\n"), 0)
	return err
}

// given is what the kernel command line decides itself.
type given struct {
	keys     map[string]bool // words before their =
	settings map[string]bool // sysctl.NAME=, as paths
}

func (s Settings) given() given {
	g := given{map[string]bool{}, map[string]bool{}}
	for word := range strings.FieldsSeq(s.Cmdline) {
		if word == "--" {
			break // what follows is for the first process
		}
		key, _, _ := strings.Cut(word, "=")
		g.keys[key] = true
		if name, ok := strings.CutPrefix(key, "sysctl"); ok && name != "" && strings.ContainsRune("./", rune(name[0])) {
			g.settings[settingPath(name[1:])] = true
		}
	}
	return g
}

// settingPath is the path of a setting named with dots or with slashes.
func settingPath(name string) string { return separated(name, '/') }

// Dotted returns a setting's name with dots between its parts, as sysctl(8) prints it.
func Dotted(name string) string { return separated(name, '.') }

// separated returns a setting's name with this separator: which of dots and slashes comes
// first separates, and the other belongs to a part, as in net.ipv4.conf.eth0/1.rp_filter.
func separated(name string, by byte) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == by {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

func (g given) words(any []string) bool {
	for _, w := range any {
		if g.keys[w] {
			return true
		}
	}
	return false
}
