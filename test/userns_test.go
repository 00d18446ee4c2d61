//go:build vm

package test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/qemu"
)

// mappedService has users of its own, and shows that the image's files are theirs.
const mappedService = `
  - name: mapped
    image: keelson/busybox
    command: ["sh", "-c", "touch /etc/shadow; ls -ln /etc/shadow >/dev/stderr; exec sleep 1000000"]
    userns: new
    uidMappings: [{containerID: 0, hostID: 200000, size: 65536}]
    gidMappings: [{containerID: 0, hostID: 200000, size: 65536}]
    annotations: {keelson.console: "true"}
`

// mappedSays is the line of it on the console. Who built the image need not have been root, but was not nobody.
const mappedSays = `mapped .*\| -rw-r----- +1 \d{1,4} +\d{1,4} .*/etc/shadow`

// moreUsers are added to the example: a one-shot, a service with a root that cannot be written to, one with every
// namespace of its own, one that is not root, and two that share the image and have the machine's users.
const moreUsers = `
  - name: fixed
    image: keelson/busybox
    command: ["sh", "-c", "ls -ln /bin/busybox; echo to the error stream >/dev/stderr; exec sleep 1000000"]
    userns: new
    uidMappings: [{containerID: 0, hostID: 300000, size: 1000}, {containerID: 5000, hostID: 400000, size: 1}]
    gidMappings: [{containerID: 0, hostID: 300000, size: 1000}]
    readonly: true
    annotations: {keelson.console: "true", keelson.ready: "log:to the error stream"}
  - name: apart
    image: keelson/guestagent
    command: ["sh", "-c", "hostname inner; ip link set lo up; ip link set in0 up; guestagent notify -barrier READY=1; exec sleep 1000000"]
    userns: new
    uidMappings: [{containerID: 0, hostID: 500000, size: 65536}]
    gidMappings: [{containerID: 0, hostID: 500000, size: 65536}]
    net: new
    ipc: new
    uts: new
    sysctl: {net.ipv4.ip_forward: "1"}
    mounts: [{type: mqueue}]
    capabilities: [all]
    oomScoreAdj: 7
    runtime:
      mkdir: [srv/made]
      interfaces: [{name: in0, add: veth, peer: out0}]
    annotations: {keelson.ready: notify, keelson.shim: own}
  - name: guest
    image: keelson/busybox
    command: ["sh", "-c", "id -u; echo said by the guest >/dev/stderr; exec sleep 1000000"]
    uid: 1000
    gid: 1000
    userns: new
    pid: host
    uidMappings: [{containerID: 0, hostID: 600000, size: 2000}]
    gidMappings: [{containerID: 0, hostID: 600000, size: 2000}]
    mounts: [{type: mqueue}]
    annotations: {keelson.console: "true", keelson.ready: "log:said by the guest"}
  - name: plain
    image: keelson/busybox
    command: ["sleep", "1000000"]
    readonly: true
  - name: plain-writes
    image: keelson/busybox
    command: ["sleep", "1000000"]
`

const oneShotOfUsers = `
  - name: once
    image: keelson/busybox
    command: ["sh", "-c", "cat /proc/self/uid_map; ls -ldn / /etc/shadow; touch /etc/mine && chown 7:8 /etc/mine && ls -ln /etc/mine; cat /etc/shadow; exit 3"]
    userns: new
    uidMappings: [{containerID: 0, hostID: 200000, size: 65536}]
    gidMappings: [{containerID: 0, hostID: 200000, size: 65536}]
    capabilities: [all]
`

// One machine with containers in user namespaces of their own, and others with the same image.
func TestUserNamespaces(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "userns.yml", agent: true, Config: qemu.Config{MemoryMB: 512}, swap: map[string]string{
		"\nservices:\n": "\n" + oneShotOfUsers + "\nservices:\n" + moreUsers,
		"      - pages:/pages\n    annotations:": `      - pages:/pages
      - /etc/secret:/etc/secret
      - /dev:/machine
    annotations:`,
	}, files: []file{{"etc/secret", 0o100600, "the machine's\n"}}})
	m.booted()
	u := &users{m}
	t.Run("one-shot", func(t *testing.T) { testOneShotOfUsers(t, u.in(t)) })
	t.Run("root", func(t *testing.T) { testRootOfUsers(t, u.in(t)) })
	t.Run("powers", func(t *testing.T) { testPowersOfUsers(t, u.in(t)) })
	t.Run("readonly", func(t *testing.T) { testReadonlyUsers(t, u.in(t)) })
	t.Run("namespaces", func(t *testing.T) { testUsersApart(t, u.in(t)) })
	t.Run("restart", func(t *testing.T) { testUsersAgain(t, u.in(t)) })
	from := m.Console.Len()
	m.sendLast(syscall.SIGUSR2)
	m.end(qemu.PowerOff)
	for _, line := range m.Console.Lines(from) {
		if strings.Contains(line, "are left") {
			t.Errorf("the console shows %q", line)
		}
	}
}

// users is a machine with containers in user namespaces.
type users struct{ *vm }

func (u *users) in(t *testing.T) *users { return &users{u.vm.in(t)} }

// inside runs a script in a service's container with "service exec", and returns its exit code and what it wrote.
func (u *users) inside(name, script string) (code int, output string) {
	u.t.Helper()
	r, err := u.ExecIn(u.ctx, 1, "/usr/bin/service", "exec", name, "--", "sh", "-c", "{ "+script+"; } 2>&1")
	if err != nil {
		u.t.Fatal(err)
	}
	return r.Exit, r.Stdout + r.Stderr
}

// expect runs a script in a service's container and looks at what became of it.
func (u *users) expect(name, script string, code int, pattern string) {
	u.t.Helper()
	if got, output := u.inside(name, script); got != code || !matches(pattern, output) {
		u.t.Errorf("%s: %s: code %d, want %d: %s\nwant %s", name, script, got, code, output, pattern)
	}
}

// ids returns the four user and group numbers of a process, as the machine sees them.
func (u *users) ids(pid int) string {
	u.t.Helper()
	var ids []string
	for line := range strings.Lines(u.read(fmt.Sprintf("/proc/%d/status", pid))) {
		if strings.HasPrefix(line, "Uid:") || strings.HasPrefix(line, "Gid:") {
			ids = append(ids, strings.Join(strings.Fields(line)[1:], " "))
		}
	}
	return strings.Join(ids, " ")
}

// itsPage fetches the page that the service has on the machine's network.
func (u *users) itsPage() (page string) {
	u.t.Helper()
	u.until("its page is there", func() bool {
		r, err := u.Exec(u.ctx, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/")
		if err != nil {
			u.t.Fatal(err)
		}
		page = r.Stdout
		return r.Exit == 0
	})
	return page
}

func same(id int) string { return strings.TrimSpace(strings.Repeat(fmt.Sprintf("%d ", id), 8)) }

func testOneShotOfUsers(t *testing.T, u *users) {
	u.inOrder(
		`once .*\| +0 +200000 +65536`,
		`once .*\| drwxr-xr-x +\d+ 0 +0 .* /$`,
		`once .*\| -rw-r----- +1 0 +0 .* /etc/shadow$`,
		`once .*\| -rw-r--r-- +1 7 +8 .* /etc/mine$`,
		`once .*\| root::19000:`,
		`once .*exited with code 3`,
	)
}

// testRootOfUsers looks at a container from both sides.
func testRootOfUsers(t *testing.T, u *users) {
	web := u.service("web")
	if got := u.ids(web.PID); got != same(200000) {
		t.Errorf("its root is %s outside", got)
	}
	if page := u.itsPage(); page != "It works.\n" {
		t.Errorf("the page is %q", page)
	}
	u.expect("web", "id -u; stat -c %u:%g /etc/passwd /bin/busybox /etc/shadow / /tmp", 0, `^0\n0:0\n0:0\n0:0\n0:0\n0:0\n$`)
	u.expect("web", "stat -c '%a %n' /etc/shadow /tmp /root", 0, `^640 /etc/shadow\n1777 /tmp\n700 /root\n$`)
	u.expect("web", "cmp /bin/busybox /proc/self/exe && cat /etc/shadow", 0, `^root::19000:`)
	u.expect("web", "echo new >/etc/new && chown 7:8 /etc/new && stat -c %u:%g /etc/new && mv /etc/passwd /etc/moved && rm -r /etc/udhcpc && mkdir /new", 0, `^7:8\n$`)
	u.expect("web", "echo page >/pages/page && stat -c %u:%g /pages/page /pages", 0, `^0:0\n0:0\n$`)
	if got := strings.TrimSpace(u.sh(fmt.Sprintf("stat -c %%u:%%g /proc/%d/root/etc/new /proc/1/root/containers/volumes/pages/merged/page", web.PID))); got != "200007:200008\n200000:200000" {
		t.Errorf("what it has written belongs to %q", got)
	}
	u.until("its health check by a command goes well", func() bool {
		s := u.status("web")
		return s.Health != nil && s.Health.State == "healthy"
	})
}

// testPowersOfUsers has root try what it may not do to the machine.
func testPowersOfUsers(t *testing.T, u *users) {
	u.expect("web", "stat -c %u /etc/secret; cat /etc/secret", 1, `^65534\ncat: can't open '/etc/secret': Permission denied\n$`)
	u.expect("web", "echo >/etc/secret", 1, `Read-only file system`)
	u.expect("web", "chmod 666 /etc/secret", 1, `Read-only file system`)
	u.expect("web", "mknod /tmp/mem c 1 1", 1, `Operation not permitted`)
	u.expect("web", "echo >/machine/ttyS0", 1, `Permission denied`)
	u.expect("web", "mount -t ext2 /machine/sda /tmp", 1, `permission denied`)
	u.expect("web", "head -c 4096 /dev/zero >/tmp/m.ko; insmod /tmp/m.ko", 1, `Operation not permitted`)
	u.expect("web", "echo 1 >/proc/sys/vm/drop_caches", 1, `Permission denied`)
	u.expect("web", "echo 1 >/sys/kernel/mm/transparent_hugepage/enabled", 1, `Read-only`)
	u.expect("web", "hostname other", 1, `Operation not permitted`)
	u.expect("web", "date -s 2030-01-01", 0, `Operation not permitted`)
	u.expect("web", "echo >/dev/null && head -c 4 /dev/urandom | wc -c && ls /sys/class/net && test -d /sys/fs/cgroup", 0, `^4\n`)
	// In a mount namespace of its own it may mount what belongs to it.
	u.expect("web", "mkdir -p /tmp/t && mount -t tmpfs t /tmp/t && stat -c %u /tmp/t && umount /tmp/t", 0, `^0\n$`)
}

// testReadonlyUsers: nothing can be written, all belongs to root inside, and to whom it did for others.
func testReadonlyUsers(t *testing.T, u *users) {
	if got := u.ids(u.service("fixed").PID); got != same(300000) {
		t.Errorf("its root is %s outside", got)
	}
	u.await(`fixed .*\| -rwxr-xr-x +1 0 +0 .* /bin/busybox`)
	u.await(`fixed .*\| to the error stream`)
	u.expect("fixed", "stat -c %u:%g / /etc /etc/shadow; touch /etc/new", 1, `^0:0\n0:0\n0:0\ntouch: /etc/new: Read-only file system\n$`)
	for _, name := range []string{"plain", "plain-writes"} {
		root := fmt.Sprintf("/proc/%d/root", u.service(name).PID)
		if got := strings.TrimSpace(u.sh("stat -c %u:%g " + root + " " + root + "/etc/passwd " + root + "/bin/busybox")); got != "0:0\n0:0\n0:0" {
			t.Errorf("files of %s belong to %q", name, got)
		}
		u.expect(name, "stat -c %u:%g /etc/passwd; cat /proc/self/uid_map", 0, `^0:0\n +0 +0 4294967295\n$`)
	}
}

// testUsersApart: namespaces that belong to the container's users, and those of others.
func testUsersApart(t *testing.T, u *users) {
	if got := u.ids(u.service("apart").PID); got != same(500000) {
		t.Errorf("its root is %s outside", got)
	}
	u.expect("apart", "hostname; cat /proc/sys/net/ipv4/ip_forward; ls /sys/class/net; stat -c %u:%g /srv/made; cat /proc/self/oom_score_adj", 0, `^inner\n1\nin0\nlo\n0:0\n7\n$`)
	u.expect("apart", "ping -c 1 -W 10 127.0.0.1 && ip addr add 10.9.9.1/24 dev in0", 0, `1 packets received`)
	u.expect("apart", "touch /dev/mqueue/q && stat -c %u /dev/mqueue/q", 0, `^0\n$`)
	guest := u.service("guest")
	if got := u.ids(guest.PID); got != same(601000) {
		t.Errorf("user 1000 is %s outside", got)
	}
	u.await(`guest .*\| 1000$`)
	u.await(`guest .*\| said by the guest`)
	u.expect("guest", "stat -c %u:%g /etc/shadow; cat /etc/shadow", 1, `^0:0\ncat: can't open '/etc/shadow': Permission denied\n$`)
	u.expect("guest", "test -d /proc/1 && test -d /dev/mqueue && test -d /sys/class/net && kill -9 1", 1, `(Operation not permitted)`)
}

// testUsersAgain: nothing is mounted twice or left, whoever dies.
func testUsersAgain(t *testing.T, u *users) {
	count := func() string {
		return fmt.Sprint(u.mountsBelow("/containers"), u.mountsBelow("/run/userns"))
	}
	before := count()
	made := u.sh("ls -i /proc/1/root/run/userns/*/ | grep layer")
	if n := strings.Count(made, "layer"); n != 4 {
		t.Errorf("%d mapped images, want one for each image and mapping:\n%s", n, made)
	}
	pids := map[string]int{}
	for _, name := range []string{"web", "fixed"} {
		pids[name] = u.service(name).PID
		u.kill(pids[name], syscall.SIGKILL)
		pids[name] = u.serviceAfter(name, pids[name]).PID
		u.is(name, "ready")
	}
	u.expect("web", "test ! -e /etc/new && stat -c %u:%g /etc/passwd", 0, `^0:0\n$`)
	supervisor := u.supervisor(0)
	from := u.Console.Len()
	u.kill(supervisor.PID, syscall.SIGKILL)
	u.awaitFrom(from, `supervisor is back`)
	u.kill(pids["web"], syscall.SIGKILL)
	u.serviceAfter("web", pids["web"])
	u.is("web", "ready")
	if page := u.itsPage(); page != "It works.\n" {
		t.Errorf("the page is %q", page)
	}
	u.until("as much is mounted as before: "+before, func() bool { return count() == before })
	if now := u.sh("ls -i /proc/1/root/run/userns/*/ | grep layer"); now != made {
		t.Errorf("an image was mapped again:\n%s\nwas\n%s", now, made)
	}
}
