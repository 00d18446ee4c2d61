//go:build vm

package test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cavaliergopher/cpio"

	"keelson/internal/qemu"
)

// address is a one-shot that gives the machine its address in QEMU's network.
const address = `onboot:
  - name: address
    image: keelson/busybox
    command: ["sh", "-c", "ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 && ip route add default via 10.0.2.2"]
    capabilities: [CAP_NET_ADMIN]
`

// edgeImage has a network, something that floods the console when it is told to, and a service that tells of
// its life every second.
const edgeImage = `
kernel:
  image: keelson/kernel
  cmdline: "console=ttyS0 quiet"
init:
  - keelson/init
` + address + `services:
  - name: flood
    image: keelson/busybox
    command: ["sh", "-c", "while [ ! -e /run/flood ]; do sleep 0.1; done; rm /run/flood; seq 1 60000; exit 3"]
    binds: ["/run:/run"]
    annotations: {keelson.console: "true", keelson.restart.backoff: 5s..5s}
  - name: alive
    image: keelson/busybox
    command: ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/run/alive; sleep 0.2; done"]
    binds: ["/run:/run"]
` + ledger

// startFlood has the service flood write its 60,000 lines.
func (m *vm) startFlood() { m.sh("touch /proc/1/root/run/flood") }

// alive waits until the service alive has lived on.
func (m *vm) alive() {
	m.t.Helper()
	before := m.read("/run/alive")
	m.until("the service alive goes on", func() bool { now := m.read("/run/alive"); return now != "" && now != before })
}

func TestLogsLeaveTheMachine(t *testing.T) {
	t.Parallel()
	var tcp, udp, virtio, second listened
	port, peer := lines(t, "virtio", &virtio)
	serial, typed := lines(t, "serial", &second)
	collector := frames(t, &tcp)
	targets := fmt.Sprintf("keelson.log.forward=tcp://10.0.2.2:%d,udp://10.0.2.2:%d,ftp://nobody keelson.log.forward=virtio:keelson.log",
		collector.port, datagrams(t, &udp))
	m := boot(t, setup{yaml: edgeImage, agent: true, Config: qemu.Config{
		Ports:      []int{},
		CPUs:       2, // QEMU before 8.0 leaves out the barriers of a machine that has one: its network card can stop for minutes
		CmdlineAdd: "console=ttyS1 linuxkit.runc_debug=maybe " + targets,
		Args: []string{
			"-chardev", "socket,id=log,path=" + port, "-device", "virtserialport,chardev=log,name=keelson.log",
			"-chardev", "socket,id=second,path=" + serial, "-serial", "chardev:second",
		},
	}})
	defer peer().Close()
	other := typed()
	m.booted()

	// What is wrong on the command line is said once, with what would be right.
	m.await(`keelson  +warning: kernel command line: keelson\.log\.forward=ftp://nobody: "ftp" is none of the schemes: want tcp://HOST`)
	m.await(`keelson  +warning: kernel command line: linuxkit\.runc_debug=maybe is neither linuxkit\.runc_debug=1 nor`)
	// Both consoles have the machine's lines.
	m.heard(&second, `keelson +boot complete`)

	// Three ways out, each with the early lines, the later ones and the kernel's.
	m.heard(&tcp, `^<30>1 \S+Z \S+ keelson - event \[meta sequenceId="\d+"\] boot complete in`)
	m.heard(&udp, `^<30>1 \S+Z \S+ keelson - event \[meta sequenceId="\d+"\] boot complete in`)
	m.heard(&virtio, `"source":"keelson","stream":"event","priority":6,"text":"boot complete in`)
	m.heard(&tcp, `^<\d>1 \S+Z \S+ kernel - kernel \[meta sequenceId="\d+"\] Linux version`)
	m.sh(`echo '<3>the kernel has said this' >/dev/kmsg`)
	m.heard(&tcp, `^<3>1 \S+Z \S+ kernel - kernel \S+ \S+\] the kernel has said this`)
	m.heard(&udp, `kernel - kernel .*the kernel has said this`)
	m.heard(&virtio, `"source":"kernel".*"text":"the kernel has said this"`)
	// On the console as the kernel's own lines would be: "quiet" leaves errors, and only those.
	m.await(`^ +\d+\.\d{3}  kernel        the kernel has said this`)
	m.sh(`echo '<5>nobody needs to read this' >/dev/kmsg`)
	m.heard(&tcp, `nobody needs to read this`)
	m.lacks("nobody needs to read this")
	for _, line := range virtio.all() {
		if line != "" && !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %q", line)
		}
	}

	// A client hands over a socket, and another one follows.
	if out := m.sh("guestagent give edge.out 3 0 && guestagent ask 2 3"); strings.Count(out, `"source":"edge.out","msg":"line `) != 3 {
		t.Errorf("memlogd's query socket says %s", out)
	}
	m.heard(&tcp, `^<30>1 \S+Z \S+ edge - stdout \S+ \S+\] line 2 of edge.out`)

	// The supervisor dies while a client writes: it does not notice, and its socket is the same one.
	inode := m.sh("stat -c %i /proc/1/root/run/memlogdq.sock")
	supervisor := m.supervisor(0).PID
	wrote := make(chan error, 1)
	go func() {
		_, err := m.Output(m.ctx, "guestagent", "give", "survivor", "100", "50")
		wrote <- err
	}()
	m.heard(&tcp, `survivor - stderr .*line 40 of survivor`)
	m.kill(supervisor, syscall.SIGKILL)
	m.supervisor(supervisor)
	m.await(`supervisor is back`)
	if err := <-wrote; err != nil {
		t.Errorf("a client of memlogd's socket noticed: %v", err)
	}
	m.heard(&tcp, `survivor - stderr .*line 99 of survivor`)
	if again := m.sh("stat -c %i /proc/1/root/run/memlogdq.sock"); again != inode {
		t.Error("the query socket is another one: a container that has bound it is cut off")
	}
	if out := m.sh("guestagent ask 0 0"); !strings.Contains(out, `"source":"survivor","msg":"line 99 of survivor"`) {
		t.Errorf("memlogd's query socket says %s", out)
	}
	for i := range 100 {
		n := len(tcp.matching(fmt.Sprintf(`line %d of survivor`, i)))
		if n == 0 || i < 10 && n > 1 {
			t.Errorf("line %d of survivor was received %d times", i, n)
		}
	}
	m.sh(`echo '<3>said to the second supervisor' >/dev/kmsg`)
	m.heard(&tcp, `said to the second supervisor`)
	// What was sent in the last second may come again, and nothing else.
	if n := len(tcp.matching(`kernel - kernel .*Linux version`)); n != 1 {
		t.Errorf("a message of the kernel's was received %d times", n)
	}
	if n := len(tcp.matching(`boot complete in`)); n != 1 {
		t.Errorf("an event was received %d times", n)
	}

	// A receiver that goes away holds up no other, and gets what it has missed when it is back.
	collector.goes()
	m.sh(`echo '<3>nobody listens for a while' >/dev/kmsg`)
	m.await(`forward +warning: tcp://10\.0\.2\.2:\d+: .*it is tried again, and the logs wait for it`)
	m.sh(`echo '<3>and nobody yet' >/dev/kmsg`)
	m.heard(&udp, `kernel - kernel .*and nobody yet`)
	collector.comes()
	m.await(`forward +tcp://10\.0\.2\.2:\d+: back after`)
	m.heard(&tcp, `kernel - kernel .*and nobody yet`)
	if n := len(tcp.matching(`kernel - kernel .*and nobody yet`)); n != 1 {
		t.Errorf("what was logged while nobody listened was received %d times", n)
	}

	t.Run("deaths", func(t *testing.T) { testDeaths(t, m.in(t), 0) })

	// A flood is shown in part; the line that says how it ended is shown.
	m.startFlood()
	m.await(`flood +\.\.\. \S+ lines dropped`)
	m.await(`flood +.*exited with code 3`)
	shown := 0
	for _, line := range m.Console.Lines(0) {
		if strings.Contains(line, "flood         | ") {
			shown++
		}
	}
	if shown < 100 || shown > 20_000 {
		t.Errorf("%d lines of 60,000 are shown", shown)
	}

	t.Run("one console stops", func(t *testing.T) { testStoppedConsole(t, m.in(t), other, &second) })

	// Both stop, and the machine goes down all the same; the last lines leave it.
	t.Run("both consoles stop", func(t *testing.T) {
		m := m.in(t)
		if _, err := other.Write([]byte{0x13}); err != nil {
			t.Fatal(err)
		}
		if err := m.Type("\x13"); err != nil {
			t.Fatal(err)
		}
		m.startFlood()
		m.alive()
		m.heard(&tcp, `flood - event .*exited with code 3.*restart 3`)
	})
	m.sendLast(syscall.SIGUSR2)
	m.end(qemu.PowerOff)
	if len(tcp.matching(`keelson - event .*services stopped in`)) != 1 || len(tcp.matching(`the services are down`)) != 1 {
		all := tcp.all()
		t.Errorf("the last lines did not arrive; the last that did:\n%s", strings.Join(all[max(0, len(all)-5):], "\n"))
	}
}

// testStoppedConsole stops the second console as somebody at a terminal may: the first one, the services and what floods
// both go on, and once it is let go it has the lines that it has missed.
func testStoppedConsole(t *testing.T, m *vm, other net.Conn, second *listened) {
	if _, err := other.Write([]byte{0x13}); err != nil { // XOFF
		t.Fatal(err)
	}
	from := m.Console.Len()
	m.startFlood()
	m.awaitFrom(from, `flood +.*exited with code 3.*restart 2`)
	m.alive()
	if stopped := second.matching(`flood .*restart 2`); len(stopped) > 0 {
		t.Errorf("the second console does not stop: %q", stopped)
	}
	if _, err := other.Write([]byte{0x11}); err != nil { // XON
		t.Fatal(err)
	}
	m.heard(second, `flood +.*exited with code 3.*restart 2`)
}

// tellerLines is how many lines the service teller writes in the end: several times what a ring has room for.
const tellerLines = 40_000

// tellerImage has the smallest ring there is, and a service that writes more, which compresses badly.
const tellerImage = `
kernel:
  image: keelson/kernel
  cmdline: "console=ttyS0 quiet keelson.log.ring=512K"
init:
  - keelson/init
` + address + `services:
  - name: teller
    image: keelson/busybox
    command:
      - sh
      - -c
      - |
        while [ ! -e /run/tell ]; do sleep 0.1; done; read -r from to </run/tell; rm /run/tell
        awk -v from=$from -v to=$to 'BEGIN { for (i = from; i <= to; i++) { s = ""; for (j = 0; j < 8; j++) s = s sprintf("%06x", rand() * 16777216); print i, s } }'
        exit 3
    binds: ["/run:/run"]
`

// tell has the teller write some of its lines.
func (m *vm) tell(from, to int) {
	m.t.Helper()
	m.sh(fmt.Sprintf("cd /proc/1/root/run && echo %d %d >tell.new && mv tell.new tell", from, to))
}

// Where receivers are away, or read nothing, the logs are the queue, and that has an end: what had no room is counted,
// line by line, also if the supervisor dies meanwhile. And there is an end to how many read at the same time.
func TestLogsFindNoRoom(t *testing.T) {
	t.Parallel()
	var tcp, virtio listened
	port, peer := lines(t, "virtio", &virtio)
	collector := frames(t, &tcp)
	m := boot(t, setup{yaml: tellerImage, agent: true, Config: qemu.Config{
		Ports: []int{}, MemoryMB: 1024,
		CmdlineAdd: fmt.Sprintf("keelson.log.forward=tcp://10.0.2.2:%d,virtio:keelson.log", collector.port),
		Args:       []string{"-chardev", "socket,id=log,path=" + port, "-device", "virtserialport,chardev=log,name=keelson.log"},
	}})
	defer peer().Close()
	m.booted()
	m.heard(&tcp, `boot complete in`)
	m.heard(&virtio, `boot complete in`)

	t.Run("readers", func(t *testing.T) { testReaders(t, m.in(t)) })

	m.tell(1, 1000)
	m.heard(&tcp, `teller - stdout .*\b1000 [0-9a-f]{48}`)
	m.heard(&virtio, `"source":"teller".*\b1000 [0-9a-f]{48}`)
	m.await(`teller +.*exited with code 3.*restart 1`)

	// One receiver goes, the other one stays and reads nothing.
	virtio.busy.Lock()
	collector.goes()
	m.sh(`echo '<3>nobody listens' >/dev/kmsg`)
	m.await(`forward +warning: tcp://10\.0\.2\.2:\d+: .*it is tried again`)
	m.tell(1001, tellerLines)
	m.await(`teller +.*exited with code 3.*restart 2`)
	taken, _ := strconv.Atoi(strings.Fields(m.sh("du -sk /proc/1/root/run/keelson/log/_teller 2>/dev/null; true"))[0])
	if taken < 256 || taken > 512+128 {
		t.Errorf("the teller's ring takes %d KiB, the bound is 512", taken)
	}
	supervisor := m.supervisor(0).PID
	m.kill(supervisor, syscall.SIGKILL)
	m.supervisor(supervisor)
	m.await(`supervisor is back`)
	collector.comes()
	virtio.busy.Unlock()
	last := fmt.Sprintf(`\b%d [0-9a-f]{48}`, tellerLines)
	m.heard(&tcp, `teller - stdout .*`+last)
	m.heard(&virtio, `"source":"teller".*`+last)
	if told(t, "tcp", tcp.matching(`teller - stdout`), `missedLines="(\d+)"`, `\] (\d+) [0-9a-f]{48}$`) {
		m.await(`forward +warning: tcp://10\.0\.2\.2:\d+: \d+ lines are missing in what is sent`)
	}
	if told(t, "virtio", virtio.matching(`^\{"at":.*"source":"teller","stream":"stdout"`), `"dropped":(\d+)`, `"text":"(\d+) [0-9a-f]{48}"`) {
		m.await(`forward +warning: virtio:keelson\.log: \d+ lines are missing in what is sent`)
	}
	m.sendLast(syscall.SIGUSR2)
	m.end(qemu.PowerOff)
}

// told checks that each line of the teller has arrived in order or is counted where it would have been. The last ones
// before the death of the supervisor may come again. It reports whether lines are missing, as they have to be.
func told(t *testing.T, where string, all []string, missed, line string) bool {
	t.Helper()
	number := func(pattern, text string) int {
		n := 0
		if found := regexp.MustCompile(pattern).FindStringSubmatch(text); found != nil {
			n, _ = strconv.Atoi(found[1])
		}
		return n
	}
	next, lacks := 1, 0
	for _, text := range all {
		lacking := number(missed, text)
		next, lacks = next+lacking, lacks+lacking
		switch n := number(line, text); {
		case n == 0 || n < next && lacking == 0:
		case n != next:
			t.Errorf("%s: line %d arrives where %d is due, with %d said to be missing", where, n, next, lacks)
			return lacks > 0
		default:
			next++
		}
	}
	if next != tellerLines+1 || lacks == 0 {
		t.Errorf("%s: %d of %d lines have arrived or are said to be missing, %d are said to be missing", where, next-1, tellerLines, lacks)
	}
	return lacks > 0
}

// testReaders has as many read the logs as may, on each of the two sockets: one more is turned away, nothing else is,
// and when they have gone there is room again.
func testReaders(t *testing.T, m *vm) {
	const most = 16
	for _, tc := range []struct{ name, follow, ask string }{
		{"control", "chroot /proc/1/root /usr/bin/service logs -f -n 1 --boot-events", "chroot /proc/1/root /usr/bin/service logs -n 1 --boot-events"},
		{"memlogd", "guestagent ask 2 0", "guestagent ask 0 0"},
	} {
		m.sh("guestagent give line 1 0") // something to be read
		dir := "/proc/1/root/run/readers." + tc.name
		m.sh(fmt.Sprintf("mkdir %[1]s; for i in $(seq %[2]d); do %[3]s >%[1]s/$i 2>&1 </dev/null & echo $! >>%[1]s/pids; done", dir, most, tc.follow))
		m.until(fmt.Sprintf("%d read by the %s socket", most, tc.name), func() bool {
			return strings.TrimSpace(m.sh(fmt.Sprintf("cd %s; for i in $(seq %d); do [ ! -s $i ] || echo $i; done | wc -l", dir, most))) == strconv.Itoa(most)
		})
		out := m.sh(tc.ask + " 2>&1; true")
		if read := strings.Contains(out, "line 0 of line") || strings.Contains(out, "keelson"); read || tc.name == "control" && !strings.Contains(out, "16 are reading logs, more cannot at the same time") {
			t.Errorf("one more than %d who read by the %s socket is answered: %s", most, tc.name, out)
		}
		if out := m.sh("chroot /proc/1/root /usr/bin/service list -o name"); out != "agent\nteller\n" {
			t.Errorf("while %d read by the %s socket, the services are %q", most, tc.name, out)
		}
		m.sh(fmt.Sprintf("kill $(cat %s/pids)", dir))
		m.until("there is room again for one who reads by the "+tc.name+" socket", func() bool {
			out := m.sh(tc.ask + " 2>&1; true")
			return out != "" && !strings.Contains(out, "16 are reading")
		})
	}
	m.await(`memlogd +warning: memlogdq\.sock: a reader was turned away: there are 16 already`)
}

// memlogdImage has a memlogd of its own, which the test puts there, with the shell script that starts it as
// /etc/init.d/002-logging and a shell for that.
const memlogdImage = `
kernel:
  image: keelson/kernel
  cmdline: "console=ttyS0 quiet linuxkit.runc_console=1 linuxkit.runc_debug=1"
init:
  - keelson/init
  - keelson/busybox
onboot:
  - name: first
    image: keelson/busybox
    command: ["echo", "out of the first"]
services:
  - name: talker
    image: keelson/busybox
    command: ["sh", "-c", "echo out of the talker; echo err of the talker >&2; exec sleep 1000000"]
`

func TestMemlogdOfTheImage(t *testing.T) {
	t.Parallel()
	program, err := os.ReadFile(filepath.Join(buildDir(t), "bin/guestagent"))
	if err != nil {
		t.Fatal(err)
	}
	m := boot(t, setup{yaml: memlogdImage, agent: true, files: []file{
		folder("etc/init.d"), {"etc/init.d/002-logging", cpio.TypeReg | 0o755, "#!/bin/sh\n\n# as LinuxKit's\nexec /usr/bin/memlogd -daemonize\n"},
		{"usr/bin/memlogd", cpio.TypeReg | 0o755, string(program)},
		// What a later image has in place of our links, laid over them as linuxkit build does it.
		{"usr/bin/ctr", cpio.TypeReg | 0o755, "the real one"}, {"sbin/init", cpio.TypeReg | 0o755, "another init"},
	}})
	m.booted()
	for path, want := range map[string]string{"/usr/bin/ctr": "the real one", "/sbin/init": "another init"} {
		if got := m.read(path); got != want {
			t.Errorf("%s of a later image holds %.20q", path, got)
		}
	}
	// Everything still shows on the console; linuxkit.runc_console=1 adds the services.
	m.await(`first +\| out of the first`)
	m.await(`talker +\| out of the talker`)
	m.await(`talker +\| err of the talker`)
	// And it is at the image's memlogd.
	for _, line := range []string{"onboot.000-first.out: out of the first", "talker.out: out of the talker", "talker: err of the talker"} {
		m.until(line+" has arrived", func() bool { return strings.Contains(m.read("/run/memlogd.received"), line+"\n") })
	}
	m.until("the service's file has its line as well", func() bool { return strings.Contains(m.read("/var/log/talker.out.log"), "out of the talker\n") })
	// linuxkit.runc_debug=1: the runtime tells what it does.
	m.until("the runtime tells what it does", func() bool {
		return regexp.MustCompile(`level=DEBUG msg=task call=Start id=talker`).MatchString(m.read("/var/log/containerd.stderr.log"))
	})
	if _, err := m.ReadFile(m.ctx, "/run/memlogdq.sock"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("there is a query socket of ours beside the image's memlogd: %v", err)
	}
	// It dies: the machine goes on.
	m.kill(m.program(0, "memlogd", "background").PID, syscall.SIGKILL)
	m.kill(m.service("talker").PID, syscall.SIGKILL)
	m.await(`talker +.*killed by SIGKILL`)
	m.await(`forward +warning: memlogd:/run/linuxkit-external-logging.sock: `)
	m.sendLast(syscall.SIGUSR2)
	m.end(qemu.PowerOff)
}

func TestQuietConsole(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "minimal.yml", agent: true, Config: qemu.Config{CmdlineAdd: "keelson.log=warn"}})
	if err := m.AwaitAgent(m.ctx); err != nil {
		t.Fatal(err)
	}
	sleeper := m.service("sleeper")
	m.kill(sleeper.PID, syscall.SIGKILL)
	m.await(`sleeper +(ERROR|warning): killed by SIGKILL`)
	m.serviceAfter("sleeper", sleeper.PID)
	m.sendLast(syscall.SIGUSR2)
	m.end(qemu.PowerOff)
	for _, line := range m.Console.Lines(0) {
		if ours.MatchString(line) && !strings.Contains(line, "warning: ") && !strings.Contains(line, "ERROR: ") && !strings.Contains(line, "  | ") {
			t.Errorf("keelson.log=warn shows %q", line)
		}
	}
}

// ours matches a line of ours on the console.
var ours = regexp.MustCompile(`^ +\d+\.\d{3}  \S`)
