// Package refusals reports what seccomp refuses to containers: for whom, which
// system call, and what to write to allow it.
//
// The kernel tells of it in its own log, with the number of the process and of the
// call. The package promises one line for each container and call, and another
// when their number has grown tenfold; that it stays small whatever containers
// do; and that it reports nothing that a program does not miss: clone3, which C
// libraries try with every thread, and calls that the kernel does not know.
// It sees what the kernel logs: that is ten records in five seconds.
package refusals

import (
	"fmt"
	"strconv"
	"strings"

	"keelson/internal/harden"
	"keelson/internal/syscalls"
)

// most bounds the pairs of container and call that are remembered.
const most = 1024

// Process is a process that was refused something.
type Process struct {
	PID  int
	Name string
}

// Config is what a Reporter needs.
type Config struct {
	// Container finds the container that a process belongs to, by its label; "" if it
	// is in none or has exited.
	Container func(pid int) string
	// Warn reports, under a container's name.
	Warn func(name, format string, a ...any)
}

// Reporter reports refusals. It has one user at a time.
type Reporter struct {
	cfg   Config
	seen  map[key]int
	extra bool // that there were more was reported
}

type key struct {
	container, call string
	logged          bool
}

// New makes a Reporter.
func New(cfg Config) *Reporter { return &Reporter{cfg: cfg, seen: map[key]int{}} }

// refusal is one record of the kernel.
type refusal struct {
	process Process
	arch    uint64
	number  int
	action  uint64
}

// Values of a record.
const (
	prefix   = "type=1326 " // AUDIT_SECCOMP
	x86_64   = 0xc000003e
	x32      = 0x40000000
	refused  = 0x00050000
	logged   = 0x7ffc0000
	lastCall = 450 // the profile's last one: what is beyond, runtimes call unknown
)

// parse reads a message of the kernel; ok is false for any other.
func parse(text string) (r refusal, ok bool) {
	_, text, ok = strings.Cut(text, prefix)
	if !ok {
		return r, false
	}
	fields := map[string]string{}
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, "=")
		if _, twice := fields[name]; twice {
			continue // a name with a space in it: the kernel's own fields come first, or are quoted
		}
		fields[name] = value
	}
	var err [4]error
	r.process.PID, err[0] = strconv.Atoi(fields["pid"])
	r.arch, err[1] = strconv.ParseUint(fields["arch"], 16, 64)
	r.number, err[2] = strconv.Atoi(fields["syscall"])
	r.action, err[3] = strconv.ParseUint(fields["code"], 0, 64)
	for _, e := range err {
		if e != nil {
			return r, false
		}
	}
	r.process.Name = command(fields["comm"])
	return r, true
}

// command reads a process's name: in quotes, or as hexadecimal digits where it has
// characters that are not plain.
func command(value string) string {
	if name, quoted := strings.CutPrefix(value, `"`); quoted {
		return strings.TrimSuffix(name, `"`)
	}
	var b strings.Builder
	for i := 0; i+1 < len(value); i += 2 {
		n, err := strconv.ParseUint(value[i:i+2], 16, 8)
		if err != nil {
			return "?"
		}
		if n < ' ' || n > '~' {
			n = '?'
		}
		b.WriteByte(byte(n))
	}
	return b.String()
}

// Message takes a message of the kernel, and reports it if it is a refusal.
func (r *Reporter) Message(text string) {
	f, ok := parse(text)
	if !ok {
		return
	}
	call, remedy := explain(f)
	if call == "" {
		return
	}
	container := r.cfg.Container(f.process.PID)
	k := key{container, call, f.action == logged}
	if _, known := r.seen[k]; !known && len(r.seen) >= most {
		if !r.extra {
			r.extra = true
			r.cfg.Warn("seccomp", "refuses more kinds of calls than are counted (%d); the kernel's log has them: service logs kernel", most)
		}
		return
	}
	r.seen[k]++
	count := r.seen[k]
	if !tenfold(count) {
		return
	}
	what := "refused"
	if f.action == logged {
		what = "would refuse"
	}
	name, who := container, fmt.Sprintf("pid %d, %s", f.process.PID, f.process.Name)
	if container == "" {
		name, who = "keelson", who+", which has exited: its container is not known"
	}
	times := ""
	if count > 1 {
		times = fmt.Sprintf(" %d times by now", count)
	}
	r.cfg.Warn(name, "seccomp %s %s%s (%s); allow it with %s", what, call, times, who, remedy)
}

// explain names a call that was refused and what allows it; no name for a refusal
// that nobody misses.
func explain(f refusal) (call, remedy string) {
	const off = "keelson.harden: linuxkit"
	if f.arch != x86_64 || f.number >= x32 {
		return "a 32-bit program", off
	}
	call = syscalls.Name(f.number)
	switch {
	case f.action != refused && f.action != logged:
		return "", ""
	case call == "" || call == "clone3" || f.number > lastCall || harden.Allowed(call):
		return "", ""
	}
	granting := harden.Granting(call)
	if len(granting) == 0 {
		return call, off
	}
	// The last one is the narrowest: CAP_SYS_ADMIN comes before those made of it.
	return call, fmt.Sprintf("capabilities: [%s], or %s", granting[len(granting)-1], off)
}

// tenfold reports whether a number is 1, 10, 100 and so on.
func tenfold(n int) bool {
	for n%10 == 0 && n > 0 {
		n /= 10
	}
	return n == 1
}
