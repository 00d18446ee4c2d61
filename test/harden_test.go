//go:build vm

package test

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What steers the machine, and who may open it for writing.
const (
	corePattern = "/proc/sys/kernel/core_pattern"
	sysrq       = "/proc/sysrq-trigger"
	powerState  = "/sys/power/state"
	parameter   = "/sys/module/printk/parameters/time"
	ipForward   = "/proc/sys/net/ipv4/ip_forward"
)

// cli runs a script in the namespaces of the machine, where service is, and returns its output.
func (m *vm) cli(script string) string {
	m.t.Helper()
	got, err := m.ExecIn(m.ctx, 1, "/bin/sh", "-c", script)
	if err != nil {
		m.t.Fatal(err)
	}
	return got.Stdout + got.Stderr
}

// said is what a service, or the one-shot setup, has found out.
func (m *vm) said(name string) string {
	m.t.Helper()
	path := "/var/log/" + name + ".out.log"
	if name == "setup" {
		path = "/run/log/onboot/onboot.000-setup.out.log"
	}
	var out string
	m.until(name+" is done", func() bool {
		out, _ = m.ReadFile(m.ctx, path)
		return strings.HasSuffix(out, "done\n")
	})
	return out
}

func TestHardening(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "harden.yml", agent: true})
	m.booted()
	shut := []string{corePattern, "/proc/sys/kernel/modprobe", sysrq, powerState, parameter, "/proc/sys/vm/swappiness"}
	for _, tc := range []struct {
		name        string
		shut, open  []string
		status      string // of its processes
		interrupts  string
		mayUnshare  bool
		statusField string // of service status
	}{
		{"setup", nil, append([]string{ipForward}, shut...), `NoNewPrivs: 0 Seccomp: 0`, `shown`, true, ""},
		{"asbefore", nil, append([]string{ipForward}, shut...), `NoNewPrivs: 0 Seccomp: 0`, `shown`, true, `linuxkit (nothing added)`},
		{"plain", append([]string{ipForward}, shut...), nil, `CapBnd: 0+ NoNewPrivs: 1 Seccomp: 2`, `hidden`, false,
			`auto (masked paths, read-only paths, /sys read-only, seccomp: default profile, no new privileges, no core dumps, pids limit 4096)`},
		{"hostpid", append([]string{ipForward}, shut...), nil, `NoNewPrivs: 1 Seccomp: 2`, `hidden`, false, ""},
		{"netadmin", shut, []string{ipForward}, `NoNewPrivs: 0 Seccomp: 2`, `hidden`, false,
			`auto (masked paths, read-only paths except /proc/sys/net, /sys read-only, seccomp: default profile, no core dumps, pids limit 4096)`},
		{"admin", nil, shut, `NoNewPrivs: 0 Seccomp: 0`, `shown`, true, `auto (no core dumps)`},
		{"logged", append([]string{ipForward}, shut...), nil, `NoNewPrivs: 1 Seccomp: 2`, `hidden`, true,
			`auto (masked paths, read-only paths, /sys read-only, seccomp: default profile, logging only, no new privileges, no core dumps, pids limit 4096)`},
		{"confined", shut, nil, `NoNewPrivs: 1 Seccomp: 2`, `hidden`, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := m.in(t)
			got := m.said(tc.name)
			want := []string{"interrupts " + tc.interrupts, "unshare refused"}
			if tc.mayUnshare {
				want[1] = "unshare works"
			}
			for _, path := range tc.shut {
				want = append(want, "shut "+path)
			}
			for _, path := range tc.open {
				want = append(want, "open "+path)
			}
			if tc.name != "setup" && tc.name != "asbefore" {
				want = append(want, "core 0")
			}
			for _, line := range want {
				if !strings.Contains(got, line+"\n") {
					t.Errorf("%q is not in\n%s", line, got)
				}
			}
			if !matches(tc.status, got) {
				t.Errorf("its processes are not %s:\n%s", tc.status, got)
			}
			if tc.statusField == "" {
				return
			}
			if status := m.cli("service status " + tc.name); !strings.Contains(status, "Hardening: "+tc.statusField) {
				t.Errorf("its status has no %q:\n%s", tc.statusField, status)
			}
			if list := m.cli("service status -o json " + tc.name); !strings.Contains(strings.Join(strings.Fields(list), ""), `"hardening":{"level":"`+strings.Fields(tc.statusField)[0]+`"`) {
				t.Errorf("as JSON: %s", list)
			}
		})
	}
	t.Run("binds", func(t *testing.T) {
		m := m.in(t)
		got := m.said("binds")
		for _, want := range []string{"the bind of /proc is as the YAML has it\n", "/shared rw,nosuid,nodev,", "/scratch rw,nosuid,nodev,"} {
			if !strings.Contains(got, want) {
				t.Errorf("%q is not in\n%s", want, got)
			}
		}
	})
	t.Run("refusals", func(t *testing.T) {
		m := m.in(t)
		m.await(`\d  (plain|hostpid|netadmin|keelson) +warning: seccomp refused unshare \(pid \d+, unshare.*\); allow it with capabilities: \[CAP_SYS_ADMIN\], or keelson\.harden: linuxkit`)
		// Of a process that lives it is known whose it is. A refusal that nobody misses is not reported.
		m.await(`\d  busy +warning: seccomp refused keyctl \(pid \d+, guestagent\); allow it with keelson\.harden: linuxkit`)
		if got, want := m.said("busy"), "call 250: operation not permitted\ncall 435: function not implemented\ncall 460: function not implemented\ndone\n"; got != want {
			t.Errorf("its calls came to %q, want %q", got, want)
		}
		m.await(`\d  (logged|keelson) +warning: seccomp would refuse unshare`)
		m.lacks("clone3")
		if log := m.cli("dmesg"); strings.Contains(log, "syscall=435") {
			t.Error("the kernel logs each thread of a program with glibc")
		}
	})
	t.Run("limit", func(t *testing.T) {
		m := m.in(t)
		limit := func(name string) (spec, cgroup int64) {
			var s specs.Spec
			if err := json.Unmarshal([]byte(m.read("/run/containerd/state/io.containerd.runtime.v2.task/services.linuxkit/"+name+"/config.json")), &s); err != nil {
				t.Fatal(err)
			}
			if r := s.Linux.Resources; r != nil && r.Pids != nil && r.Pids.Limit != nil {
				spec = *r.Pids.Limit
			}
			cgroup, err := strconv.ParseInt(strings.TrimSpace(m.read("/sys/fs/cgroup/services/"+name+"/pids.max")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return spec, cgroup
		}
		_, half := limit("asbefore") // of what all containers may have, which may be less than 4096
		for name, want := range map[string]int64{"plain": 4096, "netadmin": 4096, "logged": 4096, "asbefore": 0, "admin": 0} {
			spec, cgroup := limit(name)
			if spec != want {
				t.Errorf("%s is created with a limit of %d processes, want %d", name, spec, want)
			}
			if want = min(cmp.Or(want, half), half); cgroup != want {
				t.Errorf("%s may have %d processes, want %d", name, cgroup, want)
			}
		}
	})
	t.Run("exec", func(t *testing.T) {
		m := m.in(t)
		// What is started in a container later has no more rights than the container.
		for _, command := range []string{
			"service exec plain -- cat /proc/self/status",
		} {
			got := m.cli(command)
			for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"} {
				if !strings.Contains(got, want) {
					t.Errorf("%s: no %q in\n%s", command, want, got)
				}
			}
		}
		if got := m.cli("service exec plain -- unshare -U true 2>&1 || echo refused"); !strings.Contains(got, "refused") {
			t.Errorf("a process that was added may unshare: %s", got)
		}
	})
}

// An image that breaks has a way back.
func TestHardeningIsOff(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "harden.yml", agent: true, swap: map[string]string{"quiet": "quiet keelson.harden=linuxkit keelson.harden=off"}})
	m.booted()
	m.await(`keelson +warning: kernel command line: keelson\.harden=off is not keelson\.harden=linuxkit`)
	for _, name := range []string{"plain", "netadmin", "logged", "confined"} {
		got := m.said(name)
		if !strings.Contains(got, "Seccomp: 0\n") {
			t.Errorf("%s is filtered:\n%s", name, got)
		}
		if name != "confined" && !strings.Contains(got, "open "+corePattern+"\n") { // that one cannot by its user
			t.Errorf("%s cannot write where it could before:\n%s", name, got)
		}
	}
	m.lacks("seccomp re")
	if status := m.cli("service status plain"); !strings.Contains(status, "Hardening: linuxkit (nothing added)") {
		t.Errorf("status: %s", status)
	}
}
