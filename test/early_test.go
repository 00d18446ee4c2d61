//go:build vm

package test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/anypb"

	"keelson/internal/qemu"
)

// innerImage runs as a container of another machine: its own /init, as the container's first process.
const innerImage = `
init: [keelson/init]
onboot:
  - name: once
    image: keelson/busybox
    command: ["echo", "said in the inner machine"]
services:
  - name: inside
    image: keelson/busybox
    command: ["sleep", "424242"]
onshutdown:
  - name: bye
    image: keelson/busybox
    command: ["echo", "the inner one's last words"]
`

const earlyImage = `
kernel:
  image: keelson/kernel
  cmdline: "console=ttyS0 quiet"
init:
  - keelson/init
  # A shell for the script that stands in for containerd.
  - keelson/busybox
onboot:
  - name: waits
    image: keelson/busybox
    command: ["echo", "the one-shot has waited"]
services:
  - name: again
    image: keelson/busybox
    command: ["sleep", "1000000"]
  - name: inner
    image: keelson/test-inner
    command: ["/init"]
    annotations: {keelson.console: "true", keelson.stop.timeout: 2m, keelson.restart: on-failure}
`

// innerConfig is what makes the inner machine's container what a privileged one of docker is: mkimage's YAML has no
// cgroup namespace.
const innerConfig = `{"ociVersion":"1.0.2","process":{"args":["/init"],"cwd":"/","user":{"uid":0,"gid":0},"env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
"capabilities":{"bounding":[CAPS],"effective":[CAPS],"permitted":[CAPS],"inheritable":[CAPS]}},
"root":{"path":"rootfs"},"hostname":"inner",
"annotations":{"keelson.console":"true","keelson.stop.timeout":"2m","keelson.restart":"on-failure"},
"mounts":[{"destination":"/proc","type":"proc","source":"proc"},
{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["mode=755"]},
{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["newinstance","ptmxmode=0666","mode=0620"]},
{"destination":"/sys","type":"sysfs","source":"sysfs"},
{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup"},
{"destination":"/run","type":"tmpfs","source":"tmpfs"},{"destination":"/tmp","type":"tmpfs","source":"tmpfs"},{"destination":"/var","type":"tmpfs","source":"tmpfs"}],
"linux":{"resources":{"devices":[{"allow":true,"access":"rwm"}]},
"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"cgroup"}]}}`

// A containerd that ends twice before it answers, and then finds what a disk might have kept for it from an earlier
// boot: containers with the names of today's. And one service that is itself a machine, as a container.
func TestContainerdDiesEarly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "inner.yml"), []byte(innerImage), 0o644); err != nil {
		t.Fatal(err)
	}
	if output, err := mkimage(t, "build", "-o", dir, "--format", "tar", filepath.Join(dir, "inner.yml")); err != nil {
		t.Fatalf("mkimage: %v\n%s", err, output)
	}
	if output, err := mkimage(t, "import", "--cmd", "/init", "keelson/test-inner", filepath.Join(dir, "inner.tar")); err != nil {
		t.Fatalf("mkimage: %v\n%s", err, output)
	}
	caps := strings.Split("CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP NET_ADMIN NET_RAW SYS_CHROOT "+
		"SYS_PTRACE SYS_ADMIN SYS_RESOURCE MKNOD SETFCAP BPF PERFMON", " ")
	for i := range caps {
		caps[i] = `"CAP_` + caps[i] + `"`
	}
	m := boot(t, setup{yaml: earlyImage, agent: true, Config: qemu.Config{MemoryMB: 768}, files: []file{
		text("etc/yesterday.db", yesterday(t, "again", "inner", "000-waits", "onboot.000-waits", "nobody")),
		folder("usr/lib/real"), {"usr/lib/real/containerd", cpio.TypeSymlink | 0o777, "/usr/bin/service"},
		{"usr/bin/containerd", cpio.TypeReg | 0o755, `#!/bin/sh
try=$(($(cat /run/tries 2>/dev/null) + 1))
echo $try >/run/tries
case $try in
1|2) echo "try $try: not today" >&2; exit 3;;
3) mkdir -p /run/containerd/root/io.containerd.metadata.v1.bolt
   cp /etc/yesterday.db /run/containerd/root/io.containerd.metadata.v1.bolt/meta.db;;
esac
exec /usr/lib/real/containerd "$@"
`},
		text("containers/services/inner/config.json", strings.ReplaceAll(innerConfig, "CAPS", strings.Join(caps, ","))),
	}})
	m.booted()
	m.inOrder(`containerd .*warning: it ended before it answered: exited with code 3 .*restart 1 in`, `containerd .*restart 2 in`,
		`containerd .*ready in`, `waits .*\| the one-shot has waited`, `again .*running`)
	m.await(`containerd +\| try 2: not today`)
	if tries := m.read("/run/tries"); tries != "3\n" {
		t.Errorf("containerd was started %s times", tries)
	}

	// The machine in the container: the same steps, and what is the machine's own is left alone.
	m.await(`inner +\| .*init +started as the first process of a container`)
	m.await(`inner +\| .*once +\| said in the inner machine`)
	m.await(`inner +\| .*inside +running \(pid \d+\)`)
	m.await(`inner +\| .*boot complete`)
	for _, line := range m.Console.Lines(0) {
		if strings.Contains(line, "inner ") && (strings.Contains(line, "warning: ") || strings.Contains(line, "ERROR: ")) {
			t.Errorf("the inner machine is not content: %q", line)
		}
	}
	inside := m.program(0, "sleep", "424242")
	if name := strings.TrimSpace(m.read("/proc/sys/kernel/hostname")); name == "inner" {
		t.Error("the inner machine's name is the machine's")
	}
	// Its children are its own to reap, and come back when they die.
	from := m.Console.Len()
	m.kill(inside.PID, syscall.SIGKILL)
	m.awaitFrom(from, `inner +\| .*inside .*SIGKILL.*restart 1 in`)
	m.program(inside.PID, "sleep", "424242")

	// poweroff(8) of busybox in the container: its own PID 1 takes the signal, and only it ends.
	from = m.Console.Len()
	if got, err := m.ExecIn(m.ctx, 1, "/usr/bin/service", "exec", "inner", "--", "/usr/bin/service", "poweroff"); err != nil {
		t.Fatal(err)
	} else if got.Exit != 0 {
		t.Logf("poweroff in the container: %+v", got) // it may be gone before the answer
	}
	m.awaitFrom(from, `inner +\| .*poweroff asked for`)
	m.awaitFrom(from, `inner +\| .*bye +\| the inner one's last words`)
	m.awaitFrom(from, `inner +\| .*everything stopped, leaving the container`)
	m.awaitFrom(from, `inner +(exited with code 0|ended)`)

	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
	m.lacks("are left")
}

// yesterday makes containerd's metadata with these containers in it.
func yesterday(t *testing.T, names ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meta.db")
	file, err := bolt.Open(path, 0o644, nil)
	if err != nil {
		t.Fatal(err)
	}
	db := metadata.NewDB(file, nil, nil)
	ctx := namespaces.WithNamespace(context.Background(), "services.linuxkit")
	if err := db.Init(ctx); err != nil {
		t.Fatal(err)
	}
	store := metadata.NewContainerStore(db)
	for _, name := range names {
		if _, err := store.Create(ctx, containers.Container{
			ID: name, Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"},
			Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte("{}")},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
