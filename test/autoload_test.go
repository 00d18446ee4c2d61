//go:build vm

package test

import (
	"strings"
	"syscall"
	"testing"
)

// asksProgram is a static program of 144 bytes, for printf: socket(AF_NETLINK, SOCK_RAW,
// NETLINK_NETFILTER) and exit.
const asksProgram = `\\177\\105\\114\\106\\002\\001\\001\\000\\000\\000\\000\\000\\000\\000\\000\\000\\002\\000\\076\\000\\001\\000\\000\\000\\170\\000\\100\\000\\000\\000\\000\\000\\100\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\100\\000\\070\\000\\001\\000\\000\\000\\000\\000\\000\\000\\001\\000\\000\\000\\005\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\100\\000\\000\\000\\000\\000\\000\\000\\100\\000\\000\\000\\000\\000\\220\\000\\000\\000\\000\\000\\000\\000\\220\\000\\000\\000\\000\\000\\000\\000\\000\\020\\000\\000\\000\\000\\000\\000\\152\\051\\130\\152\\020\\137\\152\\003\\136\\152\\014\\132\\017\\005\\211\\307\\301\\357\\037\\152\\074\\130\\017\\005`

// A container without any capability makes the kernel load a module, and the console
// has its name; after the boot no module can be loaded any more.
func TestModulesAskedFor(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{agent: true, yaml: `
kernel: {image: keelson/kernel, cmdline: "console=ttyS0 quiet keelson.modules=boot"}
init: [keelson/init]
onboot:
  - name: asks
    image: keelson/busybox
    command: ["sh", "-c", "printf '` + asksProgram + `' >/socket; chmod +x /socket; /socket; printf '\\1\\2\\3\\4\\5' >/odd; chmod +x /odd; /odd; exit 0"]
services:
  - name: other
    image: keelson/busybox
    command: ["sleep", "1000000"]
`})
	m.booted()
	m.inOrder(
		`modules .*nfnetlink for asks \(socket, pid \d+\), which asked for net-pf-16-proto-12`,
		`modules .*none for asks \(sh, pid \d+\), which asked for binfmt-0403: the image has no such module`,
		`boot complete`,
		`modules .*locked: no module can be loaded until the machine boots again`,
	)
	if got := m.read("/proc/sys/kernel/modules_disabled"); got != "1\n" {
		t.Errorf("modules_disabled is %q", got)
	}

	from := m.Console.Len()
	m.sh("ip link add d0 type dummy 2>/dev/null || true")
	m.awaitFrom(from, `modules .*warning: none for agent \(ip, pid \d+\), which asked for rtnl-link-dummy: .*no module can be loaded until the machine boots again`)

	status := func() {
		t.Helper()
		got := m.sh("nsenter -t 1 -m /usr/bin/service status")
		want := "Modules: locked; requests: 1 loaded a module, 2 did not; by container: agent 1, asks 2\n"
		if !strings.Contains(got, want) {
			t.Errorf("service status shows %q, want %q", got, want)
		}
	}
	status()
	from = m.Console.Len()
	m.kill(m.supervisor(0).PID, syscall.SIGKILL)
	m.awaitFrom(from, `supervisor is back`)
	status()

	// Where the supervisor cannot be told, the kernel's log is.
	m.sh("rm /proc/1/root/run/keelson/modules.sock; ip link add d0 type dummy 2>/dev/null || true")
	if log := m.sh("dmesg | grep modprobe:"); !strings.Contains(log, "modprobe: rtnl-link-dummy asked for by ip (pid ") || !strings.Contains(log, "cgroup /services/agent") {
		t.Errorf("the kernel's log has %q", log)
	}
}
