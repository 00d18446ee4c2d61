//go:build vm

package test

import (
	"strings"
	"testing"

	"keelson/internal/qemu"
)

func TestMinimal(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "minimal.yml", Config: qemu.Config{MemoryMB: 256}})
	m.await(`hello .*hello from a container`)
	m.await(`hello .*onboot 1 of 1: done in \d`)
	m.await(`sleeper .*running \(pid \d+\)`)
	m.await(`boot complete in \d+\.\d+s`)
	if err := m.PressKeys(m.ctx, "ctrl", "alt", "delete"); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.Reboot)
	m.inOrder(`sleeper .*stopped in`, `init .*unmounted [1-9]\d* file systems, rebooting`)
}

func TestGetty(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "getty.yml"})
	_, next, err := m.Console.AwaitPrompt(m.ctx, 0, `login: $`)
	if err != nil {
		t.Fatal(err)
	}
	m.await(`boot complete`)
	if err := m.Type("root\n"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Console.AwaitPrompt(m.ctx, next, `# $`); err != nil {
		t.Fatal(err)
	}
	// It sees the machine, not only itself, and asks PID 1 with a busybox signal.
	if err := m.Type("cat /proc/1/comm; ls /containers/services\n"); err != nil {
		t.Fatal(err)
	}
	m.awaitFrom(next, `^init$`)
	m.awaitFrom(next, `^getty`)
	if err := m.Type("reboot\n"); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.Reboot)
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "volumes.yml", agent: true})
	m.booted()
	m.await(`reader .*written before the services started`)
	m.await(`reader .*written by a service`)
	m.await(`reader .*and /tools is read-only`)
	if text := m.read("/containers/volumes/letters/merged/from-writer"); text != "written by a service\n" {
		t.Errorf("the volume holds %q", text)
	}
	if err := m.WriteFile(m.ctx, "/containers/volumes/tools/merged/anything", "x"); err == nil {
		t.Error("a volume that is readonly was written to")
	}
	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
}

func TestNet(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "net.yml", agent: true})
	m.booted()
	m.await(`client .*hello across the namespaces`)
	if links := m.sh("ip -o link"); strings.Contains(links, "in0:") || strings.Contains(links, "in0@") || !strings.Contains(links, "out0") {
		t.Errorf("the machine's own links are:\n%s", links)
	}
	inside, err := m.ExecIn(m.ctx, m.service("server").PID, "ip", "-o", "-4", "addr")
	if err != nil || !strings.Contains(inside.Stdout, "in0") || !strings.Contains(inside.Stdout, "10.20.0.2/24") {
		t.Errorf("the server's addresses are: %+v, %v", inside, err)
	}
	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
	m.lacks("are left")
}
