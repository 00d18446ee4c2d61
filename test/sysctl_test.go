//go:build vm

package test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/qemu"
	"keelson/internal/sysctl"
)

// sysctlImage has a sysctl container of its own, as LinuxKit's images do.
const sysctlImage = `
kernel:
  image: keelson/kernel
  cmdline: "console=ttyS0 quiet panic=0 sysctl.kernel.perf_event_paranoid=2 keelson.kexec=off"
init: [keelson/init]
onboot:
  - name: sysctl
    image: keelson/busybox
    pid: host
    net: host
    ipc: host
    capabilities: [CAP_SYS_ADMIN, CAP_NET_ADMIN]
    readonly: true
    command: ["sh", "-ec", "cd /proc/sys; echo 1 >kernel/sysrq; echo 0 >kernel/kptr_restrict; echo core >kernel/core_pattern; echo 1 >net/ipv4/conf/all/rp_filter; echo 1 >net/ipv4/conf/all/accept_redirects"]
services:
  - name: net
    image: keelson/busybox
    net: new
    command: ["sleep", "1000000"]
`

// The kernel's settings are hardened before an image's own container sets its own, and
// a supervisor that is started again leaves them alone.
func TestKernelSettings(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{yaml: sysctlImage, agent: true, Config: qemu.Config{Ports: []int{}}})
	m.booted()
	want := map[string]string{
		"dev/tty/ldisc_autoload": "0", "fs/protected_symlinks": "1", "fs/protected_hardlinks": "1", "fs/protected_fifos": "2", "fs/protected_regular": "2",
		"fs/suid_dumpable": "0", "kernel/dmesg_restrict": "1", "kernel/yama/ptrace_scope": "1", "kernel/unprivileged_bpf_disabled": "2",
		"net/core/bpf_jit_harden": "2", "vm/unprivileged_userfaultfd": "0", "kernel/panic_on_oops": "1", "kernel/core_uses_pid": "0",
		"net/ipv4/conf/all/accept_source_route": "0", "net/ipv6/conf/all/accept_source_route": "0",
		"net/ipv4/conf/default/accept_redirects": "0", "net/ipv4/conf/eth0/accept_redirects": "0", "net/ipv4/conf/eth0/secure_redirects": "0",
		"net/ipv4/conf/lo/send_redirects": "0", "net/ipv4/conf/eth0/send_redirects": "0", "net/ipv6/conf/eth0/accept_redirects": "0",
		"fs/inotify/max_user_instances": "1024", "fs/file-max": "9223372036854775807", "fs/epoll/max_user_watches": "1073741824", "kernel/kexec_load_disabled": "1", "kernel/modules_disabled": "0",
		// What the kernel command line says.
		"kernel/panic": "0", "kernel/perf_event_paranoid": "2",
		// What the image's own container says.
		"kernel/sysrq": "1", "kernel/kptr_restrict": "0", "kernel/core_pattern": "core", "net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/all/accept_redirects": "1",
	}
	check := func(when string) {
		t.Helper()
		for path, value := range want {
			if got := strings.TrimSpace(m.read("/proc/sys/" + path)); got != value {
				t.Errorf("%s %s is %q, want %q", when, path, got, value)
			}
		}
	}
	check("after the boot")
	for _, s := range sysctl.Table() {
		path := strings.ReplaceAll(strings.Replace(s.Name, "*", "eth0", 1), ".", "/")
		if _, named := want[path]; !named && path != "dev/tty/legacy_tiocsti" { // which this kernel does not have
			t.Errorf("%s is not looked at", s.Name)
		}
	}
	// A network namespace made later has the machine's settings for IPv4, and the kernel's own for IPv6.
	inside := m.service("net").PID
	got := m.sh(fmt.Sprintf("nsenter -t %d -n sh -c 'cd /proc/sys/net; cat ipv4/conf/all/rp_filter ipv4/conf/default/accept_redirects ipv6/conf/all/accept_redirects'", inside))
	if got != "1\n0\n1\n" {
		t.Errorf("in a new network namespace are rp_filter and accept_redirects of IPv4 and of IPv6 %q", got)
	}

	from := m.Console.Len()
	m.kill(m.supervisor(0).PID, syscall.SIGKILL)
	m.awaitFrom(from, `supervisor is back`)
	check("after the supervisor was started again")
	for _, line := range m.Console.Lines(0) {
		if strings.Contains(line, "set kernel.") || strings.Contains(line, "set net.") {
			t.Errorf("the console shows %q", line)
		}
	}
}

// A machine that is told to leaves the kernel's settings alone.
func TestKernelSettingsOff(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{agent: true, yaml: `
kernel: {image: keelson/kernel, cmdline: "console=ttyS0 quiet keelson.sysctl=off"}
init: [keelson/init]
services:
  - name: crash
    image: keelson/busybox
    command: ["sleep", "1000000"]
`})
	m.booted()
	for path, want := range map[string]string{
		"fs/protected_fifos": "0", "kernel/core_pattern": "core", "net/core/bpf_jit_harden": "0", "kernel/panic_on_oops": "0",
		"net/ipv4/conf/all/rp_filter": "0", "fs/inotify/max_user_instances": "128", "kernel/kexec_load_disabled": "0",
	} {
		if got := strings.TrimSpace(m.read("/proc/sys/" + path)); got != want {
			t.Errorf("%s is %q, and the kernel's own is %q", path, got, want)
		}
	}
}
