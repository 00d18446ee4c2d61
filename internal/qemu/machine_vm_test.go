//go:build vm

package qemu_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"keelson/internal/qemu"
)

// bound is how long anything here may take; nothing waits for it to pass.
const bound = 3 * time.Minute

// script is PID 1 of the machine that tests the harness itself: busybox, the agent, and the answers to the
// busybox signals.
const script = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_console; do
	/bin/busybox insmod $(/bin/busybox find /lib/modules -name $m.ko)
done
trap '/bin/busybox poweroff -f' USR2
trap '/bin/busybox reboot -f' INT
echo 0 > /proc/sys/kernel/ctrl-alt-del
/bin/guestagent &
printf '\033[31;1mharness\033[0m is up\r\n'
printf 'type here: '
read answer
echo "read <$answer>"
while :; do /bin/busybox sleep 1000 & wait $!; done
`

// initrd makes the machine's initrd out of what `make images` has left in the build folder.
func initrd(t *testing.T, build string) string {
	t.Helper()
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	add := func(name string, mode cpio.FileMode, data []byte) {
		t.Helper()
		if err := w.WriteHeader(&cpio.Header{Name: name, Mode: mode, Size: int64(len(data)), Links: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name, source string) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(build, source))
		if err != nil {
			t.Fatalf("%v (run make images first)", err)
		}
		add(name, cpio.TypeReg|0o755, data)
	}
	for _, dir := range []string{"bin", "lib", "lib/modules"} {
		add(dir, cpio.TypeDir|0o755, nil)
	}
	add("init", cpio.TypeReg|0o755, []byte(script))
	file("bin/busybox", "images/busybox/bin/busybox")
	file("bin/guestagent", "bin/guestagent")
	for _, name := range []string{"virtio/virtio", "virtio/virtio_ring", "virtio/virtio_pci_modern_dev",
		"virtio/virtio_pci_legacy_dev", "virtio/virtio_pci", "char/virtio_console"} {
		found, err := filepath.Glob(filepath.Join(build, "cache/kernel/lib/modules/*/kernel/drivers", name+".ko"))
		if err != nil || len(found) != 1 {
			t.Fatalf("module %s: %v, %v", name, found, err)
		}
		data, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		add("lib/modules/"+filepath.Base(name)+".ko", cpio.TypeReg|0o644, data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func start(t *testing.T, config qemu.Config) *qemu.Machine {
	t.Helper()
	m, err := qemu.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if t.Failed() {
			t.Logf("console:\n%s", m.Console)
		}
	})
	return m
}

// The harness itself, on a machine that holds nothing of ours: what it says must not depend on our init.
func TestMachine(t *testing.T) {
	build := os.Getenv("KEELSON_BUILD")
	if build == "" {
		build = "../../build"
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	config := qemu.Config{
		Kernel: filepath.Join(build, "images/kernel/kernel"), Initrd: initrd(t, build),
		Cmdline: "console=ttyS0 quiet panic=-1", MemoryMB: 256, Agent: true, Ports: []int{80, 6379},
	}
	m := start(t, config)
	line, err := m.Await(ctx, "harness")
	if err != nil {
		t.Fatal(err)
	}
	if line != "harness is up" {
		t.Errorf("the console's escape sequences are left in %q", line)
	}
	if m.Addr(80) == m.Addr(6379) || strings.HasSuffix(m.Addr(80), ":0") {
		t.Errorf("forwarded ports: %s and %s", m.Addr(80), m.Addr(6379))
	}

	if _, _, err := m.Console.AwaitPrompt(ctx, 0, "type here:"); err != nil {
		t.Fatalf("a prompt without an end of line: %v", err)
	}
	if err := m.Type("some words\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Await(ctx, "read <some words>"); err != nil {
		t.Fatal(err)
	}

	if err := m.AwaitAgent(ctx); err != nil {
		t.Fatal(err)
	}
	result, err := m.Exec(ctx, "/bin/busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
	if err != nil || result.Exit != 3 || result.Stdout != "out\n" || result.Stderr != "err\n" {
		t.Errorf("exec: %+v, %v", result, err)
	}
	if err := m.WriteFile(ctx, "/some-file", "text"); err != nil {
		t.Error(err)
	}
	if text, err := m.ReadFile(ctx, "/some-file"); err != nil || text != "text" {
		t.Errorf("read back %q, %v", text, err)
	}
	if _, err := m.ReadFile(ctx, "/missing"); err == nil {
		t.Error("reading a file that is not there succeeded")
	}
	short, stop := context.WithTimeout(ctx, time.Second)
	if _, err := m.Await(short, "never printed"); err == nil {
		t.Error("awaiting what is never printed succeeded")
	}
	stop()

	processes, err := m.Processes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	agent := 0
	for _, p := range processes {
		if p.Name == "guestagent" {
			agent = p.PID
		}
	}
	if agent == 0 {
		t.Fatalf("the agent is not among the processes: %+v", processes)
	}

	if err := m.Kill(ctx, 1, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if end, err := m.Wait(ctx); err != nil || end != qemu.PowerOff {
		t.Errorf("after poweroff the machine's end is %q, %v", end, err)
	}
	if _, err := m.Exec(ctx, "/bin/busybox", "true"); err == nil {
		t.Error("a machine that has ended ran a command")
	}

	config.Ports, config.Agent = nil, false
	m = start(t, config)
	if _, err := m.Await(ctx, "harness"); err != nil {
		t.Fatal(err)
	}
	if err := m.PressKeys(ctx, "ctrl", "alt", "delete"); err != nil {
		t.Fatal(err)
	}
	// The script is in a read, so the trap runs after it: the key itself is what is tested.
	if err := m.Type("\n"); err != nil {
		t.Fatal(err)
	}
	if end, err := m.Wait(ctx); err != nil || end != qemu.Reboot {
		t.Errorf("after ctrl-alt-delete the machine's end is %q, %v", end, err)
	}
}

func TestStartErrors(t *testing.T) {
	_, err := qemu.Start(t.Context(), qemu.Config{Kernel: "/missing/kernel"})
	if err == nil || !strings.Contains(err.Error(), "/missing/kernel") {
		t.Errorf("a kernel that is missing: %v", err)
	}
}
