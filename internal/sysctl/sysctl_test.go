package sysctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree makes a /proc/sys with these values.
func tree(t *testing.T, values map[string]string) (root string, read func(string) string) {
	t.Helper()
	root = t.TempDir()
	for path, value := range values {
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root, func(path string) string {
		data, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return "none"
		}
		// A file keeps what a write does not reach; a setting does not.
		first, _, _ := strings.Cut(string(data), "\n")
		return first
	}
}

func TestHarden(t *testing.T) {
	for _, c := range []struct {
		name, cmdline string
		path          string
		has, want     string
	}{
		{"set", "quiet", "kernel/kptr_restrict", "0", "2"},
		{"emptied", "quiet", "kernel/core_pattern", "core", ""},
		{"a stricter one stays", "quiet", "kernel/perf_event_paranoid", "4", "4"},
		{"a stricter ptrace_scope stays", "quiet", "kernel/yama/ptrace_scope", "3", "3"},
		{"what cannot be undone stays", "quiet", "kernel/unprivileged_bpf_disabled", "1", "1"},
		{"and else becomes what can be", "quiet", "kernel/unprivileged_bpf_disabled", "0", "2"},
		{"more instances stay", "quiet", "fs/inotify/max_user_instances", "8192", "8192"},
		{"fewer do not", "quiet", "fs/inotify/max_user_instances", "128", "1024"},
		{"strict rp_filter stays", "quiet", "net/ipv4/conf/all/rp_filter", "1", "1"},
		{"panic", "quiet", "kernel/panic", "0", "10"},
		{"panic of the command line", "panic=0 quiet", "kernel/panic", "0", "0"},
		{"panic of the kernel's configuration", "", "kernel/panic", "-1", "-1"},
		{"oops of the command line", "oops=panic", "kernel/panic_on_oops", "0", "0"},
		{"sysrq", "", "kernel/sysrq", "438", "432"},
		{"sysrq of the command line", "sysrq_always_enabled", "kernel/sysrq", "1", "1"},
		{"sysctl of the command line", "sysctl.kernel.sysrq=1", "kernel/sysrq", "1", "1"},
		{"sysctl with slashes", "sysctl/kernel/sysrq=1", "kernel/sysrq", "1", "1"},
		{"sysctl of another setting", "sysctl.kernel.panic=1", "kernel/sysrq", "1", "432"},
		{"what is for the first process", "-- panic=3", "kernel/panic", "0", "10"},
		{"all interfaces", "", "net/ipv4/conf/all/accept_redirects", "1", "0"},
		{"new interfaces", "", "net/ipv4/conf/default/accept_redirects", "1", "0"},
		{"an interface", "", "net/ipv6/conf/eth0/accept_redirects", "1", "0"},
		{"an interface of the command line", "sysctl.net.ipv6.conf.eth0/1.accept_redirects=1", "net/ipv6/conf/eth0.1/accept_redirects", "1", "1"},
		{"kexec is left alone", "", "kernel/kexec_load_disabled", "0", "0"},
		{"modules are left alone", "", "kernel/modules_disabled", "0", "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, read := tree(t, map[string]string{c.path: c.has})
			if err := (Settings{root, c.cmdline}).Harden(); err != nil {
				t.Error(err)
			}
			if got := read(c.path); got != c.want {
				t.Errorf("%s is %q, want %q", c.path, got, c.want)
			}
		})
	}
}

func TestWhatTheKernelLacksIsSkipped(t *testing.T) {
	root, _ := tree(t, nil)
	if err := (Settings{root, ""}).Harden(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v in an empty /proc/sys", entries, err)
	}
}

func TestOneFailureIsReportedAndTheOthersAreSet(t *testing.T) {
	root, read := tree(t, map[string]string{"kernel/dmesg_restrict/is": "a directory", "kernel/sysrq": "1"})
	err := Settings{root, ""}.Harden()
	if err == nil || !strings.Contains(err.Error(), "kernel.dmesg_restrict") || strings.Contains(err.Error(), "sysrq") {
		t.Errorf("error %v", err)
	}
	if got := read("kernel/sysrq"); got != "432" {
		t.Errorf("sysrq is %s", got)
	}
}

func TestLocks(t *testing.T) {
	root, read := tree(t, map[string]string{"kernel/kexec_load_disabled": "0", "kernel/modules_disabled": "0"})
	s := Settings{root, ""}
	if err := s.LockKexec(); err != nil || read("kernel/kexec_load_disabled") != "1" || read("kernel/modules_disabled") != "0" {
		t.Errorf("kexec: %v, %s, %s", err, read("kernel/kexec_load_disabled"), read("kernel/modules_disabled"))
	}
	if err := s.LockModules(); err != nil || read("kernel/modules_disabled") != "1" {
		t.Errorf("modules: %v, %s", err, read("kernel/modules_disabled"))
	}
}

func TestEverySettingHasItsReasonAndComesOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Table() {
		if s.Why == "" || seen[s.Name] {
			t.Errorf("%s: %q", s.Name, s.Why)
		}
		seen[s.Name] = true
	}
}

// The documentation has the table as it is.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/hardware.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := "| setting | value | why |\n|---|---|---|\n"
	for _, s := range Table() {
		value := s.Value
		if value == "" {
			value = "(empty)"
		}
		rows += "| `" + s.Name + "` | " + value + " | " + s.Why + " |\n"
	}
	if !strings.Contains(string(text), rows) {
		t.Errorf("docs/hardware.md does not have this table:\n%s", rows)
	}
}
