//go:build vm

package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cavaliergopher/cpio"

	"keelson/internal/qemu"
)

// What is wrong with an image is said once, with the name and the place, and everything else runs. mkimage
// refuses most of this, so it is put over what mkimage made.
func TestBadInput(t *testing.T) {
	t.Parallel()
	const yaml = `
kernel:
  image: keelson/kernel
  cmdline: "console=ttyS0 quiet"
init:
  - keelson/init
onboot:
  - name: good-first
    image: keelson/busybox
    command: ["echo", "the first one-shot runs"]
  - name: twin
    image: keelson/busybox
    command: ["echo", "the twin among the one-shots runs"]
  - name: no-such-command
    image: keelson/busybox
    command: ["/bin/is-not-there"]
  - name: no-loader
    image: keelson/busybox
    command: ["/loader"]
  - name: good-last
    image: keelson/busybox
    command: ["echo", "the last one-shot runs"]

services:
  - name: good
    image: keelson/busybox
    command: ["sleep", "1000000"]
  - name: twin
    image: keelson/busybox
    command: ["sleep", "1000000"]
  - name: no-such-program
    image: keelson/busybox
    command: ["/bin/is-not-there-either", "with", "arguments"]
  - name: zulu
    image: keelson/busybox
    command: ["sleep", "1000000"]
  # What stands in a start's way most often, each reported in one sentence.
  - {name: no-source, image: keelson/busybox, command: ["sleep", "1"], binds: ["/nowhere/ctr:/usr/bin/ctr"], annotations: {keelson.restart: never}}
  - {name: no-fit, image: keelson/busybox, command: ["sleep", "1"], binds: ["/etc/hosts:/etc"], annotations: {keelson.restart: never}}
  - {name: no-namespace, image: keelson/busybox, readonly: true, command: ["sleep", "1"], net: /run/netns/none, annotations: {keelson.restart: never}}
  - {name: no-disk, image: keelson/busybox, command: ["sleep", "1"], mounts: [{type: ext4, source: /dev/sdz, destination: /x}], annotations: {keelson.restart: never}}
  # The places that a read-only image lacks are made with it.
  - {name: made-place, image: keelson/busybox, readonly: true, cwd: /made/cwd, command: ["sleep", "1000000"], binds: ["/run:/made/run", "/etc/hosts:/made/hosts"], tmpfs: [/made/tmp]}
  - {name: no-interpreter, image: keelson/busybox, command: ["/script"], annotations: {keelson.restart: never}}
  - {name: with-crlf, image: keelson/busybox, command: ["/windows"], annotations: {keelson.restart: never}}
  - {name: no-format, image: keelson/busybox, command: ["/plain"], annotations: {keelson.restart: never}}
  - {name: dependent, image: keelson/busybox, command: ["sleep", "1000000"], annotations: {keelson.requires: no-interpreter}}
  - {name: not-executable, image: keelson/busybox, readonly: true, command: ["/etc/passwd"], annotations: {keelson.restart: never}}
`
	// config.json as mkimage writes it, for a service of ours by hand.
	config := func(more string) string {
		return `{"ociVersion":"1.0.2","process":{"args":["sleep","1000000"],"cwd":"/","user":{"uid":0,"gid":0}},"root":{"path":"rootfs"},
			"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
			"linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]}` + more + `}`
	}
	const services = "containers/services/"
	// mkimage makes the place of a bind in an image; other builders do not.
	noPlace := strings.NewReplacer(`"mounts":[`, `"mounts":[{"destination":"/not/there","type":"bind","source":"/run","options":["rbind"]},`, `"path":"rootfs"`, `"path":"rootfs","readonly":true`).
		Replace(config(`,"annotations":{"keelson.restart":"never"}`))
	m := boot(t, setup{yaml: yaml, agent: true, files: []file{
		folder(services + "bad-config"), folder(services + "bad-config/rootfs"),
		text(services+"bad-config/config.json", `{"ociVersion": "1.0.2", "process": {`), text(services+"bad-config/runtime.json", `{}`),
		folder(services + "bad-type"), folder(services + "bad-type/rootfs"),
		text(services+"bad-type/config.json", config("")), text(services+"bad-type/runtime.json", `{"mounts": "all of them"}`),
		folder(services + "no-rootfs"),
		text(services+"no-rootfs/config.json", config("")), text(services+"no-rootfs/runtime.json", `{}`),
		folder(services + "no-config"), folder(services + "no-config/rootfs"),
		folder(services + "odd-annotation"), folder(services + "odd-annotation/rootfs"),
		text(services+"odd-annotation/config.json", config(`,"annotations":{"keelson.restrat":"always","keelson.stop.timeout":"soon"}`)),
		text(services+"odd-annotation/runtime.json", `{}`),
		folder(services + "no-place"), folder(services + "no-place/rootfs"), text(services+"no-place/config.json", noPlace),
		text(services+"no-place/runtime.json", `{"mounts":[{"source":"/containers/onboot/000-good-first/lower","destination":"/containers/services/no-place/rootfs","options":["bind"]}]}`),
		// The image of all of them lies where its first user is.
		{"containers/onboot/000-good-first/lower/script", cpio.TypeReg | 0o755, "#!/bin/bash\n"},
		{"containers/onboot/000-good-first/lower/windows", cpio.TypeReg | 0o755, "#!/bin/sh\r\necho hello\r\n"},
		{"containers/onboot/000-good-first/lower/plain", cpio.TypeReg | 0o755, "echo hello\n"},
		{"containers/onboot/000-good-first/lower/loader", cpio.TypeReg | 0o755, dynamic("/lib/ld-musl-x86_64.so.1")},
		// One-shots: the boot goes on behind each.
		folder("containers/onboot/001-a-bad-config"), text("containers/onboot/001-a-bad-config/config.json", `[]`),
		folder("containers/onboot/001-b-bad-runtime"), folder("containers/onboot/001-b-bad-runtime/rootfs"),
		text("containers/onboot/001-b-bad-runtime/config.json", config("")), text("containers/onboot/001-b-bad-runtime/runtime.json", `{"mkdir": 3}`),
	}})
	m.booted()

	m.inOrder(
		`good-first .*\| the first one-shot runs`,
		`a-bad-config .*ERROR: .*config\.json`,
		`b-bad-runtime .*ERROR: .*runtime\.json.*mkdir`,
		`twin .*\| the twin among the one-shots runs`,
		`no-such-command .*ERROR: .*/bin/is-not-there.*`,
		`no-loader .*ERROR: .*process\.args: "/loader" cannot be executed: it needs /lib/ld-musl-x86_64\.so\.1, which is not in the image`,
		`good-last .*\| the last one-shot runs`,
	)
	m.await(`bad-config .*ERROR: .*/containers/services/bad-config/config\.json`)
	m.await(`bad-type .*ERROR: .*/containers/services/bad-type/runtime\.json.*mounts`)
	m.await(`no-rootfs .*ERROR: .*/containers/services/no-rootfs.*rootfs`)
	m.await(`no-config .*ERROR: .*config\.json`)
	m.await(`no-such-program .*ERROR: .*/bin/is-not-there-either`)
	const end = ` \(services/%s\); not restarted \(keelson\.restart: never\)$`
	for name, why := range map[string]string{
		"no-source":      `bind /nowhere/ctr: not in the machine's root \(services/no-source, from the image's label or its YAML\); not restarted`,
		"no-place":       `mount /run on /not/there: the image has no such place and is read-only: .*` + fmt.Sprintf(end, "no-place"),
		"no-fit":         `mount /etc/hosts on /etc: one is a directory and the other is a file` + fmt.Sprintf(end, "no-fit"),
		"no-namespace":   `namespace /run/netns/none \(network\): there is none; .*` + fmt.Sprintf(end, "no-namespace"),
		"no-disk":        `mount /dev/sdz on /x: there is no /dev/sdz` + fmt.Sprintf(end, "no-disk"),
		"not-executable": `/containers/services/not-executable/config\.json: process\.args: "/etc/passwd" is not executable in the image; not restarted`,
	} {
		m.await(`\d  ` + name + ` +ERROR: failed to start: ` + why)
	}
	testNotExecuted(t, m)
	m.await(`odd-annotation .*warning: .*keelson\.restrat`)
	m.await(`odd-annotation .*warning: .*keelson\.stop\.timeout`)

	made, err := m.ExecIn(m.ctx, m.service("made-place").PID, "sh", "-c", "ls -d /made/cwd; cat /made/hosts; ls /made/run; touch /made/tmp/x && touch /made/x")
	if err != nil || !strings.HasPrefix(made.Stdout, "/made/cwd\n127.0.0.1") || !strings.Contains(made.Stdout, "keelson") || !strings.Contains(made.Stderr, "/made/x: Read-only file system") {
		t.Errorf("what was made in a read-only image: %+v, %v", made, err)
	}

	services1 := m.pids("good", "zulu", "twin", "agent")
	all := m.processes()
	for _, name := range []string{"bad-config", "bad-type", "no-rootfs", "no-config"} {
		if p := first(all, "/services/"+name); p.PID != 0 {
			t.Errorf("%s runs: %+v", name, p)
		}
	}

	// A full /run: what runs goes on, and what dies is started again.
	m.sh("dd if=/dev/zero of=/proc/1/root/run/fill bs=64k 2>/dev/null || true")
	if got, err := m.ExecIn(m.ctx, 1, "/usr/bin/service", "status"); err != nil || got.Exit != 0 {
		t.Errorf("with /run full the machine answers %+v, %v", got, err)
	}
	from := m.Console.Len()
	m.kill(services1["good"], syscall.SIGKILL)
	m.awaitFrom(from, `good .*ERROR: .*SIGKILL.*restart`)
	m.serviceAfter("good", services1["good"])
	// The supervisor lives through it too.
	supervisor := m.supervisor(0)
	m.kill(supervisor.PID, syscall.SIGKILL)
	m.supervisor(supervisor.PID)
	m.sh("rm /proc/1/root/run/fill")
	if now := m.pids("zulu", "twin", "agent"); now["zulu"] != services1["zulu"] || now["twin"] != services1["twin"] || now["agent"] != services1["agent"] {
		t.Errorf("after /run was full the services changed: %v, %v", services1, now)
	}

	// Errors come back with every restart of what cannot be started, but not the whole of them each time.
	long := 0
	for _, line := range m.Console.Lines(0) {
		if strings.Contains(line, "is-not-there-either") {
			long++
		}
	}
	if long > 2 {
		t.Errorf("the same error is explained %d times", long)
	}
	// reboot(8) of busybox in a container with the machine's processes sends PID 1 its signal.
	if _, err := m.Exec(m.ctx, "reboot"); err != nil {
		t.Log(err) // the machine may be gone before the answer
	}
	m.end(qemu.Reboot)
	m.inOrder(`keelson .*services stopped`, `init .*unmounted [1-9]\d* file systems, rebooting`)
}

// testNotExecuted: what the kernel refuses to execute has never run. Its start has failed, with the reason.
func testNotExecuted(t *testing.T, m *vm) {
	reasons := map[string][2]string{ // of services; the command, and why it cannot be executed
		"no-interpreter": {"/script", `it needs /bin/bash, which is not in the image`},
		"with-crlf":      {"/windows", `it needs "/bin/sh\\r", which is not in the image: its lines end as on Windows \(CRLF\), save it with LF`},
		"no-format":      {"/plain", `it is neither a binary nor a script whose first line names its interpreter, such as #!/bin/sh`},
	}
	for name, r := range reasons {
		m.await(`\d  ` + name + ` +ERROR: failed to start: /containers/services/` + name + `/config\.json: process\.args: "` + r[0] + `" cannot be executed: ` + r[1] + `; not restarted`)
		m.never(`\d  ` + name + ` +(running|ready)`)
	}
	m.await(`dependent .*no-interpreter`)
	m.never(`\d  dependent +(running|ready)`)
	for _, r := range append(slices.Collect(maps.Values(reasons)), [2]string{"/loader", "it needs /lib/ld-musl-x86_64.so.1"}) {
		got, err := m.ExecIn(m.ctx, 1, "/usr/bin/service", "exec", "good", "--", r[0])
		if err != nil || got.Exit != 126 || !matches(`"`+r[0]+`" cannot be executed: `+r[1], got.Stderr) {
			t.Errorf("service exec of %s: %+v, %v", r[0], got, err)
		}
	}
}

// dynamic is a binary that asks for a dynamic loader, and has nothing else.
func dynamic(loader string) string {
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, binary.LittleEndian, v) // into memory
		}
	}
	put([]byte("\x7fELF\x02\x01\x01"), [9]byte{}, uint16(2), uint16(62), uint32(1), uint64(0x400000), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), [6]byte{})
	put(uint32(3), uint32(4), uint64(120), uint64(0x400078), uint64(0), uint64(len(loader)+1), uint64(len(loader)+1), uint64(1))
	b.WriteString(loader + "\x00")
	return b.String()
}

// An init image and a kernel, and nothing to run, not even a folder for it, and no modules: containerd is not started
// for nothing, and each thing that is not there is said once.
func TestNoContainers(t *testing.T) {
	t.Parallel()
	build := buildDir(t)
	root := filepath.Join(t.TempDir(), "root")
	if err := os.CopyFS(root, os.DirFS(filepath.Join(build, "images/init"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(root, "containers")); err != nil {
		t.Fatal(err)
	}
	if output, err := mkimage(t, "import", "keelson/test-no-containers", root); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	m := boot(t, setup{yaml: `
kernel:
  image: keelson/kernel
  tar: none
  cmdline: "console=ttyS0 quiet"
init:
  - keelson/test-no-containers
`, Config: qemu.Config{MemoryMB: 256}})
	m.await(`boot complete`)
	m.once(`keelson .*no containers in /containers: containerd is not started`)
	m.once(`modules .*no kernel modules in the image: there are the drivers that the kernel has built in`)
	m.lacks("ERROR")
	// The power button is one of the drivers that are not there.
	if err := m.PressKeys(m.ctx, "ctrl", "alt", "delete"); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.Reboot)
	m.lacks("panic")
	m.lacks("  containerd  ")
}

// A kernel without overlay: containers that write to their root cannot be, and those that do not, run.
func TestNoOverlay(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{agent: true, faulty: true, yaml: `
kernel:
  image: keelson/kernel-no-overlay
  cmdline: "console=ttyS0 quiet"
init:
  - keelson/init
onboot:
  - name: writes
    image: keelson/busybox
    command: ["echo", "never"]

services:
  - name: only-reads
    image: keelson/busybox
    readonly: true
    command: ["sleep", "1000000"]
  - name: wants-to-write
    image: keelson/busybox
    command: ["sleep", "1000000"]
    annotations: {keelson.restart: never}
`})
	m.booted()
	m.await(`writes .*ERROR: .*overlay`)
	m.await(`wants-to-write .*ERROR: .*overlay`)
	m.service("only-reads")
	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
}

// An image that does not fit into the machine's memory must not come up as if nothing were missing.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	large := filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(large, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		// Long runs of one byte: the initrd is small, and what it unpacks to is not.
		data := strings.Repeat(string(rune('a'+i)), 32<<20)
		if err := os.WriteFile(filepath.Join(large, "data", fmt.Sprint("file", i)), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if output, err := mkimage(t, "import", "keelson/test-large", large); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	const yaml = `
kernel:
  image: keelson/kernel-lean
  cmdline: "console=ttyS0 quiet panic=5%s"
init:
  - keelson/init
services:
  - name: large
    image: keelson/test-large
    readonly: true
    command: ["/missing"]
`
	t.Run("tmpfs", func(t *testing.T) {
		// The kernel gives such a root half of the memory, loses the rest and goes on.
		m := boot(t, setup{yaml: fmt.Sprintf(yaml, " rootfstype=tmpfs"), faulty: true, Config: qemu.Config{MemoryMB: 320}})
		m.await(`init .*ERROR: .*root is incomplete`)
		m.await(`init .*ERROR: .*RAM`)
	})
	t.Run("128 MiB", func(t *testing.T) {
		m := boot(t, setup{yaml: fmt.Sprintf(yaml, ""), faulty: true, Config: qemu.Config{MemoryMB: 128}})
		m.await(`root is incomplete|System is deadlocked on memory`)
		m.lacks("boot complete")
	})
}

// What the machine is to do when a container fails for good.
func TestOnFailure(t *testing.T) {
	t.Parallel()
	t.Run("onboot", func(t *testing.T) {
		// The machine has modules too, and not what tells one from the other.
		modules, err := filepath.Glob(filepath.Join(buildDir(t), "cache/kernel/lib/modules/*"))
		if err != nil || len(modules) != 1 {
			t.Fatalf("the kernel's modules: %v, %v", modules, err)
		}
		modules[0] = "lib/modules/" + filepath.Base(modules[0])
		m := boot(t, setup{Config: qemu.Config{MemoryMB: 256}, files: []file{folder("lib/modules"), folder(modules[0])}, yaml: `
kernel: {image: keelson/kernel-lean, tar: none, cmdline: "console=ttyS0 quiet"}
init: [keelson/init]
onboot:
  - name: must-work
    image: keelson/busybox
    readonly: true
    command: ["sh", "-c", "exit 9"]
    annotations: {keelson.on-failure: reboot}
  - name: never
    image: keelson/busybox
    command: ["echo", "not reached"]
onshutdown:
  - name: bye
    image: keelson/busybox
    readonly: true
    command: ["echo", "the last words"]
services:
  - name: never-either
    image: keelson/busybox
    command: ["sleep", "1000000"]
`})
		m.end(qemu.Reboot)
		m.inOrder(`must-work .*ERROR: onboot 1 of 2: .*9.*keelson\.on-failure: reboot`, `bye .*the last words`, `rebooting`)
		m.await(`init .*reboot asked for`) // by another process, so its place among the lines is not fixed
		m.lacks("not reached")
		m.lacks("never-either    running")
		m.once(`modules .*/` + modules[0] + ` has no modules\.dep, so no module can be loaded: run depmod`)
	})
	t.Run("service", func(t *testing.T) {
		m := boot(t, setup{Config: qemu.Config{MemoryMB: 256}, yaml: `
kernel: {image: keelson/kernel-lean, cmdline: "console=ttyS0 quiet"}
init: [keelson/init]
services:
  - name: fails
    image: keelson/busybox
    command: ["sh", "-c", "echo 'why I fail'; exit 7"]
    annotations: {keelson.restart.limit: "2/5m", keelson.on-failure: poweroff}
  - name: bystander
    image: keelson/busybox
    command: ["sleep", "1000000"]
`})
		m.end(qemu.PowerOff)
		m.inOrder(`fails .*restart 1 in`, `fails .*restart 2 in`, `fails .*restarted 2 times`, `bystander .*stopped`, `powering off`)
		m.await(`fails .*\| why I fail`)
		m.await(`init .*poweroff asked for`)
	})
	// The other ends that each may ask for.
	for _, c := range []struct {
		section, annotations, says string
		end                        qemu.End // "" for a machine that is there still
	}{
		{"onboot", "keelson.on-failure: poweroff", "powering off", qemu.PowerOff},
		{"onboot", "keelson.on-failure: halt", "halting", ""},
		{"services", "keelson.restart: never, keelson.on-failure: reboot", "rebooting", qemu.Reboot},
		{"services", "keelson.restart: never, keelson.on-failure: halt", "halting", ""},
	} {
		t.Run(c.section+" "+c.says, func(t *testing.T) {
			m := boot(t, setup{Config: qemu.Config{MemoryMB: 256}, yaml: `
kernel: {image: keelson/kernel-lean, cmdline: "console=ttyS0 quiet"}
init: [keelson/init]
` + c.section + `:
  - name: fails
    image: keelson/busybox
    readonly: true
    command: ["false"]
    annotations: {` + c.annotations + `}
`})
			m.await(`init .*unmounted [1-9]\d* file systems, ` + c.says)
			if c.end != "" {
				m.end(c.end)
			}
		})
	}
}
