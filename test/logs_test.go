//go:build vm

package test

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/internal/qemu"
	"keelson/services/logs"
)

// virtualTime makes a machine's clock run by what the machine does: whenever it idles the clock goes on to the next
// thing that is due. PID 1 waits seconds before it starts a supervisor that dies all the time; here they take none.
var virtualTime = []string{"-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm"}

// A service writes 100,000 lines to each of its streams. Meanwhile the supervisor is killed 100 times and containerd
// 10 times. Every line is in its file and in the store, once and in order.
func TestLogsSurvive(t *testing.T) {
	t.Parallel()
	drive := disk(t, 64<<20)
	m := boot(t, setup{file: "logs.yml", agent: true, Config: qemu.Config{
		Drives: []string{drive}, MemoryMB: 1024, Args: virtualTime,
		CmdlineAdd: "keelson.log.ring=16M", // no supervisor may live long enough to compress any of it
	}})
	m.booted()
	// Who had its file before the disk was mounted has it there as well, although it has written nothing since.
	for _, file := range []string{"containerd.stderr.log", "containerd.stdout.log"} {
		m.until("there is a "+file+" on the disk", func() bool { _, err := m.Stat(m.ctx, "/var/log/"+file); return err == nil })
	}

	supervisor, daemon := m.supervisor(0).PID, m.containerd(0).PID
	for k := 1; k <= 100; k++ {
		if k%10 == 5 { // the worst of times: it has taken what was in the pipe
			m.sh(fmt.Sprintf("guestagent cut %d /proc/1/root/run/keelson/io/counter/stdout /proc/1/root/run/test/go %d", supervisor, k))
		} else {
			m.sh(fmt.Sprintf("echo %d >/proc/1/root/run/test/go", k))
			if k%10 == 0 {
				m.kill(daemon, syscall.SIGKILL)
			}
			m.kill(supervisor, syscall.SIGKILL)
		}
		supervisor = m.supervisor(supervisor).PID
		if k%10 == 0 {
			daemon = m.containerd(daemon).PID
		}
	}

	// One that ends while nobody is there to read: the supervisor hangs, and is then killed, by PID 1 if not from here.
	brief := m.service("brief").PID
	m.kill(supervisor, syscall.SIGSTOP)
	m.sh("echo 1 >/proc/1/root/run/test/brief")
	m.until("the brief service has ended", func() bool { return first(m.processes(), "/services/brief").PID != brief })
	m.sh(fmt.Sprintf("kill -9 %d 2>&1; true", supervisor))
	m.supervisor(supervisor)

	m.until("the last line is in the file", func() bool {
		return strings.HasPrefix(m.sh("tail -n 1 /proc/1/root/var/log/counter.out.log"), "100000 out") &&
			strings.HasPrefix(m.sh("tail -n 1 /proc/1/root/var/log/counter.log"), "100000 err") &&
			strings.HasSuffix(m.sh("cat /proc/1/root/var/log/brief.out.log"), "5000\nthe last word")
	})
	m.whole(100000)
	if got := m.sh("seq 1 5000 | cmp - /proc/1/root/var/log/brief.out.log 2>&1; true"); !strings.Contains(got, "EOF") {
		t.Errorf("brief.out.log is not what was written: %s", got)
	}
	// What was logged before the disk was mounted is on it.
	if got := m.read("/var/log/onboot/onboot.000-early.out.log"); got != "before the disk\n" {
		t.Errorf("the one-shot before the disk: %q", got)
	}
	if to, err := m.Stat(m.ctx, "/run/log/onboot"); err != nil || to.Link != "/var/log/onboot" {
		t.Errorf("the one-shots' files were not moved to the disk: /run/log/onboot is %+v, %v", to, err)
	}

	// In the store, with times that do not go back.
	store := m.copyOfStore("counter", "brief")
	for _, stream := range []logs.Stream{logs.Stdout, logs.Stderr} {
		n, at := 0, time.Duration(0)
		err := store.Read(t.Context(), logs.Query{Sources: []string{"counter"}, Streams: []logs.Stream{stream}}, func(r logs.Record) error {
			n++
			number, rest, _ := strings.Cut(string(r.Text), " ")
			if i, err := strconv.Atoi(number); err != nil || i != n || len(rest) != 36 || r.Gap || r.Partial || r.Continued || r.At < at {
				return fmt.Errorf("record %d is %+v %q", n, r, r.Text)
			}
			at = r.At
			return nil
		})
		if err != nil || n != 100000 {
			t.Errorf("%s in the store: %d lines, %v", stream, n, err)
		}
	}
	var last logs.Record
	n := 0
	if err := store.Read(t.Context(), logs.Query{Sources: []string{"brief"}}, func(r logs.Record) error { n++; last = r; return nil }); err != nil ||
		n != 5001 || string(last.Text) != "the last word" || !last.Partial {
		t.Errorf("of the brief one %d lines are in the store, the last %+v, %v", n, last, err)
	}

}

// The disk of the logs becomes read-only, full, small and mute. Whoever writes goes on, it is said, and every line is in
// its file once the disk is as it should be.
func TestLogDisks(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "logs.yml", agent: true, Config: qemu.Config{
		Drives: []string{disk(t, 64<<20)}, MemoryMB: 1024, Args: virtualTime,
		CmdlineAdd: "linuxkit.runc_debug=1", // so that containerd has something to say
	}})
	m.booted()
	m.until("what containerd said before the disk was mounted is on it", func() bool {
		return strings.Contains(m.sh("cat /proc/1/root/var/log/containerd.stderr.log; true"), "id=onboot.000-early")
	})
	brief := m.service("brief").PID
	m.sh("echo 1 >/proc/1/root/run/test/brief")
	m.until("the brief service has ended", func() bool { return first(m.processes(), "/services/brief").PID != brief })
	t.Run("rotation", func(t *testing.T) { testRotation(t, m.in(t)) })
	t.Run("read-only disk", func(t *testing.T) { testReadOnlyDisk(t, m.in(t)) })
	t.Run("full disk", func(t *testing.T) { testFullDisk(t, m.in(t)) })
	t.Run("small disk", func(t *testing.T) { testSmallDisk(t, m.in(t)) })
	t.Run("frozen disk", func(t *testing.T) { testFrozenDisk(t, m.in(t)) })
}

// Ten services write as fast as they can, each to both of its streams, one of them with keelson.log: drop; together they
// have less room than each might have. A quiet one is heard all the same, logs stay within their bounds, and the machine
// goes down in order.
func TestLogFlood(t *testing.T) {
	t.Parallel()
	var yaml strings.Builder
	yaml.WriteString(`
kernel: {image: keelson/kernel, cmdline: "console=ttyS0 quiet keelson.log.ring=2M"}
init: [keelson/init]

services:
  - name: quiet
    image: keelson/busybox
    readonly: true
    command: ["sh", "-c", "for i in $(seq 1 50); do read -r up rest </proc/uptime; echo quiet $i at $up; usleep 100000; done; exec sleep 1000000"]
    annotations: {keelson.console: "true"}
`)
	for i := range 10 {
		fmt.Fprintf(&yaml, "  - {name: flood%d, image: keelson/busybox, readonly: true, command: [sh, -c, \"l=$(seq -s . 1 400); yes $l >&2 & exec yes $l\"]", i)
		if i == 0 {
			yaml.WriteString(", annotations: {keelson.log: drop}")
		}
		yaml.WriteString("}\n")
	}
	m := boot(t, setup{yaml: yaml.String(), agent: true, Config: qemu.Config{MemoryMB: 256}})
	m.booted()
	m.await(`quiet .*\| quiet 50 at`)
	m.await(`flood0 .*warning: \d+ bytes of its std(out|err) were dropped \(keelson\.log: drop\)`)
	taken := func(dir string) int { // in KiB
		// Files come and go under it, which du takes for errors.
		return m.number("du -sk /proc/1/root" + dir + " 2>/dev/null | { read -r n rest; echo $n; }")
	}
	bound := field(t, m.read("/proc/meminfo"), "MemTotal:") / 20
	m.until("the rings are full", func() bool { return taken("/run/keelson/log") > bound*3/4 })
	if lines := strings.Count(m.read("/var/log/quiet.out.log"), "\n"); lines != 50 {
		t.Errorf("the quiet one's file has %d lines", lines)
	}
	// It is heard at once: half of its lines are on the console before the machine, ten times as busy as it can be, has gone on
	// for two seconds.
	if median := m.heardAfter("quiet"); median > 2*time.Second {
		t.Errorf("the quiet one's lines are heard %v after it has written them", median)
	}
	m.until("what was dropped is noted where it would have been", func() bool {
		return strings.Contains(m.sh(`cat /proc/1/root/var/log/flood0.*log* 2>/dev/null | grep -ao 'bytes are missing here: keelson.log is drop' | head -n 1`), "drop")
	})
	// Whoever is held up loses nothing, nor does whoever drops lose more than is dropped.
	if got := m.sh(`cat /proc/1/root/var/log/flood[1-9].*log* 2>/dev/null | grep -ao '\[keelson: .* missing here.*' | head -n 3`); got != "" {
		t.Errorf("the files lack something: %s", got)
	}
	// Now and then they take a little more, until whoever wrote has made room.
	rings := bound
	for range 10 {
		rings = min(rings, taken("/run/keelson/log"))
	}
	if most := bound*7/8 + 256; rings > most {
		t.Errorf("the rings take %d KiB, the bound is %d", rings, most)
	}
	if files, most := taken("/var/log"), bound+1024; files > most {
		t.Errorf("the files take %d KiB, the bound is %d", files, most)
	}
	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
	m.inOrder(`keelson .*stopping \d+ services`, `keelson .*services stopped in`, `init .*powering off`)
	m.lacks("no time is left")
	m.lacks("it could not be written in time")
	m.lacks("what comes is kept in memory for now")
	m.lacks("has not stopped 10s after SIGTERM")
}

// heardAfter is the median of how long after it was written a line of a service was on the console; the time at which
// it was is the line's last word. The ring may have none of them any more: the oldest goes first, whoever wrote too much.
func (m *vm) heardAfter(service string) time.Duration {
	m.t.Helper()
	shown := regexp.MustCompile(`^ *(\d+\.\d+)  ` + service + ` +\| .* at (\d+\.\d+)$`)
	var all []time.Duration
	for _, line := range m.Console.Lines(0) {
		if found := shown.FindStringSubmatch(line); found != nil {
			heard, _ := time.ParseDuration(found[1] + "s")
			wrote, _ := time.ParseDuration(found[2] + "s")
			all = append(all, heard-wrote)
		}
	}
	if len(all) < 25 {
		m.t.Fatalf("the console shows %d lines of %s", len(all), service)
	}
	slices.Sort(all)
	m.t.Logf("of %d lines the first was heard after %v, half of them after %v, all after %v", len(all), all[0], all[len(all)/2], all[len(all)-1])
	return all[len(all)/2]
}

// testRotation has a service write more than its files may take: what it wrote last is in ten of them, of 1 MiB.
func testRotation(t *testing.T, m *vm) {
	m.pour(12 << 20)
	sizes := map[string]int{}
	for line := range strings.Lines(m.sh("cd /proc/1/root/var/log; stat -c '%n %s' agent.out.log*")) {
		var name string
		var size int
		if _, err := fmt.Sscan(line, &name, &size); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		sizes[name] = size
	}
	right := len(sizes) == 10 && sizes["agent.out.log"] <= 1<<20
	for i := 1; i < 10; i++ {
		right = right && sizes[fmt.Sprint("agent.out.log.", i)] == 1<<20
	}
	if !right {
		t.Errorf("a service's output is not in ten files of 1 MiB: %v", sizes)
	}
}

// pour has the agent write so many bytes to its output, and waits until its file has them or cannot be written.
func (m *vm) pour(bytes int) {
	m.t.Helper()
	from := m.Console.Len()
	m.sh(fmt.Sprintf("{ head -c %d /dev/zero; echo; echo poured; } >/proc/%d/fd/1", bytes, m.service("agent").PID))
	m.until("the file has all that was written", func() bool {
		return m.sh("tail -n 1 /proc/1/root/var/log/agent.out.log 2>/dev/null; true") == "poured\n" ||
			strings.Contains(strings.Join(m.Console.Lines(from), "\n"), "what comes is kept in memory")
	})
}

// testReadOnlyDisk makes the disk of the logs read-only, which needs their files to be closed, and writable again.
func testReadOnlyDisk(t *testing.T, m *vm) {
	from := m.Console.Len()
	m.until("nobody holds the disk", func() bool {
		result, err := m.ExecIn(m.ctx, m.service("mounter").PID, "mount", "-o", "remount,ro", "/var/log")
		return err == nil && result.Exit == 0
	})
	m.write(1)
	m.awaitFrom(from, `counter .*warning: open /var/log/counter\S*: read-only file system; what comes is kept in memory`)
	m.goesOn(2, 20)
	m.overLogs("mount", "-o", "remount,rw", "/var/log")
	m.awaitFrom(from, `counter .*warning: /var/log/counter\S* is written again; nothing is missing in it`)
	m.caughtUp(20)
}

// testFullDisk mounts a small file system over the logs: it fills, the service runs on, and nothing is lost once
// there is room.
func testFullDisk(t *testing.T, m *vm) {
	from := m.Console.Len()
	m.overLogs("mount", "-t", "tmpfs", "-o", "size=64k", "none", "/var/log")
	m.write(21)
	m.awaitFrom(from, `counter .*warning: write /var/log/counter\S*: no space left on device; what comes is kept in memory`)
	m.goesOn(22, 40)
	m.overLogs("mount", "-o", "remount,size=64m", "/var/log")
	m.awaitFrom(from, `counter .*warning: /var/log/counter\S* is written again; nothing is missing in it`)
	m.caughtUp(40)
}

// testSmallDisk mounts a file system over the logs that is smaller than what is to be written to it: of the old files so
// many go that it does not become full. Then this one and the one of testFullDisk go, which needs the files to be closed,
// and the disk below them gets what it has missed.
func testSmallDisk(t *testing.T, m *vm) {
	from := m.Console.Len()
	m.overLogs("mount", "-t", "tmpfs", "-o", "size=8m", "none", "/var/log")
	m.write(41)
	m.caughtUp(41)
	m.pour(12 << 20)
	// An eighth was left when a file was moved aside; since then others may have grown.
	var free, all int
	if _, err := fmt.Sscan(m.sh("stat -f -c '%a %b' /proc/1/root/var/log"), &free, &all); err != nil || free < all/16 {
		t.Errorf("of the %d blocks of a small file system the logs leave %d, %v", all, free, err)
	}
	for _, line := range m.Console.Lines(from) {
		if strings.Contains(line, "no space left on device") {
			t.Errorf("old files do not make room for new ones: %s", line)
		}
	}
	for range 2 {
		m.until("nobody holds the file system", func() bool {
			result, err := m.ExecIn(m.ctx, m.service("mounter").PID, "umount", "/var/log")
			return err == nil && result.Exit == 0
		})
	}
	m.write(42)
	m.caughtUp(42)
}

// testFrozenDisk has the disk not answer. What writes goes on, as does everything else; once the disk answers its files
// have what the ring has, and say how much that is not. Then it does not answer while the machine goes down.
func testFrozenDisk(t *testing.T, m *vm) {
	from := m.Console.Len()
	m.overLogs("fsfreeze", "--freeze", "/var/log")
	m.goesOn(43, 60)
	m.awaitFrom(from, `counter .*warning: /var/log/counter\S*: its disk has not answered for 5s; what comes is kept in memory`)

	// The supervisor dies, which it cannot altogether: a thread of it waits for the disk. Another one takes over.
	supervisor := m.supervisor(0).PID
	m.kill(supervisor, syscall.SIGKILL)
	m.awaitFrom(from, `init .*ERROR: supervisor was killed and does not end, .*; restart`)
	m.supervisor(supervisor)
	m.awaitFrom(from, `keelson .*supervisor is back; 3 of 4 services running`)
	m.goesOn(61, 80)

	// A neighbour starts, and gets more to say than the ring can hold, of which nothing can be made smaller.
	m.sh("chroot /proc/1/root /usr/bin/service start brief")
	const noise = 12 << 20
	log := "cd /proc/1/root/var/log; for i in 9 8 7 6 5 4 3 2 1; do cat brief.out.log.$i 2>/dev/null; done | cat - brief.out.log | "
	before := m.number(log + "wc -c")
	m.sh(fmt.Sprintf("cd /proc/1/root/run/test; head -c %d /dev/urandom >noise; cat noise >/proc/%d/fd/1", noise, m.service("brief").PID))
	m.awaitFrom(from, `brief .*warning: /var/log/brief\.out\.log: its disk has not answered for 5s; what comes is kept in memory`)
	if list := m.sh("chroot /proc/1/root /usr/bin/service list"); len(regexp.MustCompile(`(?m)^(agent|brief|counter|mounter) +ready `).FindAllString(list, -1)) != 4 {
		t.Errorf("while the disk does not answer there are the services\n%s", list)
	}

	m.overLogs("fsfreeze", "--unfreeze", "/var/log")
	m.caughtUp(80)
	m.whole(80000)
	said := m.awaitFrom(from, `brief .*warning: /var/log/brief\.out\.log is written again; \d+ bytes are missing in it`)
	missing, _ := strconv.Atoi(regexp.MustCompile(`(\d+) bytes`).FindStringSubmatch(said)[1])
	note := fmt.Sprintf("[keelson: %d bytes are missing here: the file could not be written in time]\n", missing)
	if got := m.sh(log + "tr '\\000' '\\n' | grep -aoF '" + strings.TrimSpace(note) + "'; true"); got != note {
		t.Errorf("the file of the neighbour says %q, not %q", got, note)
	}
	if got, want := m.number(log+"wc -c"), before+noise-missing+len(note); got != want {
		t.Errorf("the file of the neighbour has %d bytes, not %d", got, want)
	}
	// What a write that was under way at first had in hand may stand before the note.
	last := noise - missing - 256<<10
	if last < 4<<20 {
		t.Errorf("of %d bytes %d are missing, although the ring has room for 8 MiB", noise, missing)
	}
	if got, want := m.sh(fmt.Sprintf("%s tail -c %d | md5sum", log, last)), m.sh(fmt.Sprintf("tail -c %d /proc/1/root/run/test/noise | md5sum", last)); got != want {
		t.Error("the end of the neighbour's file is not what was written")
	}

	m.overLogs("fsfreeze", "--freeze", "/var/log")
	m.write(81)
	m.sendLast(syscall.SIGUSR2)
	m.end(qemu.PowerOff)
	m.inOrder(`keelson .*stopping 4 services`, `keelson .*services stopped in`, `init .*powering off`)
}

// caughtUp waits until the counter's files have its k-th thousand lines.
func (m *vm) caughtUp(k int) {
	m.t.Helper()
	m.until("the files have caught up", func() bool {
		last := m.sh("cd /proc/1/root/var/log; tail -q -n 1 counter.out.log counter.log 2>/dev/null; true") // they may just be moved aside
		return regexp.MustCompile(fmt.Sprintf(`^%d000 out .*\n%d000 err `, k, k)).MatchString(last)
	})
}

// whole fails the test unless the counter's files, the old ones first, have so many lines, each once and in order.
func (m *vm) whole(lines int) {
	m.t.Helper()
	for file, stream := range map[string]string{"counter.out.log": "out", "counter.log": "err"} {
		got := m.sh(`cd /proc/1/root/var/log; for i in 9 8 7 6 5 4 3 2 1; do cat ` + file + `.$i 2>/dev/null; done | cat - ` + file + ` |
			awk '$1 != NR || $2 != "` + stream + `" || length($3) != 32 { if (!bad) print "line", NR, "is", $0; bad = 1 } END { print NR, "lines" }'`)
		if got != fmt.Sprintf("%d lines\n", lines) {
			m.t.Errorf("%s: %s", file, got)
		}
	}
}

// number is what a shell script in the agent's container counts.
func (m *vm) number(script string) int {
	m.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(m.sh(script)))
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// write has the counter write its k-th thousand lines, and waits until it has.
func (m *vm) write(k int) {
	m.t.Helper()
	m.sh(fmt.Sprintf("echo %d >/proc/1/root/run/test/go", k))
}

// goesOn has it write more than its pipes have room for and than a file may be behind, and sees that it is not held up.
func (m *vm) goesOn(from, to int) {
	m.t.Helper()
	m.sh(fmt.Sprintf("seq %d %d >/proc/1/root/run/test/go", from, to))
	m.until("the counter goes on", func() bool {
		last := m.sh("chroot /proc/1/root /usr/bin/service logs -o raw -n 1 --stream=stdout counter")
		return strings.HasPrefix(last, fmt.Sprintf("%d000 out", to))
	})
}

// overLogs runs a program in the container whose mounts over /var/log are the machine's too.
func (m *vm) overLogs(argv ...string) {
	m.t.Helper()
	result, err := m.ExecIn(m.ctx, m.service("mounter").PID, argv...)
	if err != nil || result.Exit != 0 {
		m.t.Fatalf("%q: %+v, %v", argv, result, err)
	}
}

// copyOfStore reads the logs of some sources as the supervisor keeps them in memory.
func (m *vm) copyOfStore(sources ...string) *logs.Store {
	m.t.Helper()
	dir := m.t.TempDir()
	for i := range sources {
		sources[i] = "_" + sources[i]
	}
	var kept string
	m.until("nothing of the store is made smaller while it is read", func() bool {
		var err error
		kept, err = m.Output(m.ctx, "/bin/sh", "-c", "tar c -C /proc/1/root/run/keelson/log "+strings.Join(sources, " "))
		return err == nil
	})
	archive := tar.NewReader(strings.NewReader(kept))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			m.t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Clean("/"+header.Name))
		if header.Typeflag == tar.TypeDir {
			continue
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			m.t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			m.t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
	store := logs.New(logs.Config{
		Now: func() time.Duration { return 1 << 60 }, Wall: time.Now, Dir: dir, PerSource: 1 << 30, Total: 1 << 30, Warn: m.t.Errorf,
	})
	m.t.Cleanup(store.Close)
	return store
}
