//go:build vm

package test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"keelson/internal/qemu"
	"keelson/test/faults/writelog"
)

// cuts is how often the power of one machine is cut; cutBoots with how many of the disks it boots again.
const cuts, cutBoots = 60, 2

// powerYAML has a disk for its logs, as LinuxKit's mount package would mount it, and a service that writes lines which
// tell its boot.
const powerYAML = `
kernel: {image: keelson/kernel, cmdline: "console=ttyS0 quiet"}
init: [keelson/init]
onboot:
  - name: disk
    image: keelson/busybox
    command: ["mount", "-t", "ext4", "/dev/vda", "/var/log"]
    capabilities: [all]
    binds: ["/dev:/dev:rbind,rslave", "/var/log:/var/log:rshared,rbind"]
    devices: [{path: all, type: b}]
    rootfsPropagation: shared
services:
  - name: web
    image: keelson/busybox
    readonly: true
    command:
      - sh
      - -c
      - |
        read -r boot </proc/sys/kernel/random/boot_id; i=0; pad=$(seq -s . 1 250)
        while :; do i=$((i+1)); echo "$boot $i $pad"; [ $((i%100)) != 0 ] || usleep 10000; done
`

// The power of a machine that logs to a disk is cut at random instants, also where the disk had a cache and has kept
// only some of what was written since it was last flushed: the file system is whole once its journal is replayed, each log
// file holds lines in order with none missing between them, and the machine boots again and goes on in them.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("KEELSON_SEED"); text != "" {
		seed = number(t, "KEELSON_SEED", text)
	}
	t.Logf("SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	empty := disk(t, 24<<20)
	hostTool(t, "e2fsprogs", "mkfs.ext4", "-q", empty)
	config := image(t, setup{yaml: powerYAML, agent: true})
	log := writes(t, config, empty)
	t.Logf("%d instants", log.Len())
	booted := 0
	for k := range cuts {
		after := 1 + random.IntN(log.Len())
		if k == 0 {
			after = log.Len()
		}
		cut := copyOf(t, empty)
		if err := cutTo(log, cut, after, random); err != nil {
			t.Fatal(err)
		}
		found := filesAfterCut(t, cut, after)
		if found > 0 && booted < cutBoots {
			booted++
			t.Run(fmt.Sprint("boot", booted), func(t *testing.T) { bootsAgain(t, config, cut, after) })
		}
		os.Remove(cut)
	}
	if booted < cutBoots {
		t.Errorf("%d of the disks had a log to go on in", booted)
	}
}

// number is what an environment variable says.
func number(t *testing.T, name, text string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// writes runs a machine until its log has been moved aside, cuts its power, and returns what it had written to the disk.
func writes(t *testing.T, config qemu.Config, empty string) *writelog.Log {
	t.Helper()
	file := filepath.Join(t.TempDir(), "writes")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	config.Args = []string{
		"-blockdev", "driver=blklogwrites,node-name=power,file.driver=file,file.filename=" + copyOf(t, empty) + ",log.driver=file,log.filename=" + file,
		"-device", "virtio-blk-pci,drive=power",
	}
	m := start(t, config)
	m.booted()
	m.until("the log was moved aside", func() bool { _, err := m.Stat(m.ctx, "/var/log/web.out.log.1"); return err == nil })
	m.sh("sync")
	m.until("the log goes on", func() bool { _, err := m.Stat(m.ctx, "/var/log/web.out.log.2"); return err == nil })
	m.Close()
	written, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer written.Close()
	log, err := writelog.Read(written)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func copyOf(t *testing.T, path string) string {
	t.Helper()
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.CreateTemp(t.TempDir(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	return to.Name()
}

func cutTo(log *writelog.Log, path string, after int, random *rand.Rand) error {
	disk, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	return log.Cut(disk, after, random)
}

// filesAfterCut replays the journal on a copy and looks at the log's files, and returns how many there are.
func filesAfterCut(t *testing.T, cut string, after int) (found int) {
	t.Helper()
	replayed := copyOf(t, cut)
	defer os.Remove(replayed)
	// 1 is for a journal that was replayed; 4 would be for errors that a person must decide on.
	if output, err := exec.Command("e2fsck", "-p", replayed).CombinedOutput(); err != nil && exitCode(err) != 1 {
		t.Errorf("after %d writes: e2fsck -p: %v\n%s", after, err, output)
		return 0
	}
	hostTool(t, "e2fsprogs", "e2fsck", "-fn", replayed)
	for _, name := range []string{"web.out.log", "web.out.log.1", "web.out.log.2"} {
		data, err := exec.Command("debugfs", "-R", "cat /"+name, replayed).Output()
		if err != nil {
			t.Fatalf("debugfs: %v", err)
		}
		if len(data) == 0 {
			continue
		}
		found++
		if wrong := outOfOrder(string(data)); wrong != "" {
			t.Errorf("after %d writes: %s: %s", after, name, wrong)
		}
	}
	return found
}

func exitCode(err error) int {
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return -1
}

// outOfOrder says which line of a log file does not follow the one before. The last may have been cut, and the first of a
// file may be the rest of one.
func outOfOrder(data string) string {
	lines := strings.Split(data, "\n")
	boot, last := "", 0
	for k, line := range lines[:len(lines)-1] {
		var id string
		var n int
		if _, err := fmt.Sscanf(line, "%36s %d", &id, &n); err != nil {
			if k == 0 {
				continue
			}
			return fmt.Sprintf("line %d is %q", k, line)
		}
		if boot == id && n != last+1 {
			return fmt.Sprintf("line %d follows line %d", n, last)
		}
		boot, last = id, n
	}
	return ""
}

// bootsAgain boots with what the cut has left.
func bootsAgain(t *testing.T, config qemu.Config, cut string, after int) {
	t.Helper()
	config.Drives = []string{cut}
	m := start(t, config)
	m.booted()
	if got := m.sh("dmesg"); !strings.Contains(got, "EXT4-fs (vda): recovery complete") {
		t.Errorf("after %d writes: the kernel does not say that it recovered the file system:\n%s", after, got)
	}
	boot := strings.TrimSpace(m.read("/proc/sys/kernel/random/boot_id"))
	m.until("the log goes on behind that of the boot before", func() bool {
		return strings.TrimSpace(m.sh("cat /proc/1/root/var/log/web.out.log* | grep -c "+boot+"; true")) != "0"
	})
	if strings.TrimSpace(m.sh("cat /proc/1/root/var/log/web.out.log* | grep -vc "+boot+"; true")) == "0" {
		t.Errorf("after %d writes: what the boot before had logged is gone", after)
	}
	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
	if !cleanly(t, cut) {
		t.Error("the file system was not unmounted")
	}
}
