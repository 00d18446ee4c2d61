//go:build vm

package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/api"
	"keelson/internal/guestagent"
	"keelson/internal/qemu"
)

// moreServices are added to the example: what a person sees of services that are not well, and who may not ask.
const moreServices = `
  - name: stubborn
    image: keelson/busybox
    command: ["sh", "-c", "trap '' TERM; echo it has begun; while :; do sleep 1; done"]
    annotations: {keelson.stop.timeout: 1s, keelson.after: web}
  - name: never
    image: keelson/busybox
    command: ["sleep", "1000"]
    annotations: {keelson.ready: "file:/nothing", keelson.ready.timeout: 1h}
  - name: chained
    image: keelson/busybox
    command: ["sleep", "1000"]
    annotations: {keelson.requires: web}
  - name: broken
    image: keelson/busybox
    command: ["/no/such/program"]
    annotations: {keelson.restart: never}
  - name: backs
    image: keelson/busybox
    command: ["sh", "-c", "exit 3"]
    annotations: {keelson.restart.backoff: 1h..1h}
  - name: guest
    image: keelson/busybox
    command: ["sleep", "1000"]
    uid: 1000
    gid: 1000
    capabilities: [CAP_DAC_OVERRIDE]
    ambient: [CAP_DAC_OVERRIDE]
    binds: ["/run/keelson:/run/keelson", "/usr/bin/service:/usr/bin/service:ro"]
`

// One machine that is asked everything there is to ask, from the debug container.
func TestService(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join("../testdata", "debug.yml"))
	if err != nil {
		t.Fatal(err)
	}
	yaml := strings.Replace(string(data), "\nfiles:\n", moreServices+"\nfiles:\n", 1)
	m := boot(t, setup{yaml: yaml, agent: true, faulty: true, Config: qemu.Config{MemoryMB: 512}})
	m.await(`web .*ready`)
	if err := m.AwaitAgent(m.ctx); err != nil {
		t.Fatal(err)
	}
	d := &debug{m, m.service("debug").PID}

	// The boot goes on as long as one service is on its way, and the machine answers.
	d.expect(0, `^web is ready\n`, "service", "wait", "web", "db", "chained", "stubborn", "--timeout=3m")
	d.expect(0, `Machine: booting\n`, "service", "status")
	d.until("never runs", func() bool { return d.status("never").State == "running" })
	d.expect(0, `(?s)^NAME +STATE .*never +running +.*ready when file:/nothing`, "service", "list")
	d.expect(0, ``, "service", "stop", "never")
	m.booted()

	t.Run("look", func(t *testing.T) { testLook(t, d.in(t)) })
	t.Run("audit", func(t *testing.T) { testAudit(t, d.in(t)) })
	t.Run("exec", func(t *testing.T) { testExec(t, d.in(t)) })
	t.Run("forms", func(t *testing.T) { testForms(t, d.in(t)) })
	t.Run("steer", func(t *testing.T) { testSteer(t, d.in(t)) })
	t.Run("reload", func(t *testing.T) { testReload(t, d.in(t)) })
	t.Run("linuxkit", func(t *testing.T) { testLinuxKitForms(t, d.in(t)) })
	t.Run("socket", func(t *testing.T) { testSocket(t, d.in(t)) })
	t.Run("supervisor", func(t *testing.T) { testAcrossSupervisor(t, d.in(t)) })

	// The machine may be gone before the command's own words can be read.
	r, err := d.ExecIn(d.ctx, d.pid, "service", "poweroff")
	if !errors.Is(err, qemu.ErrEnded) && (err != nil || r.Exit != 0 || !matches(`poweroff was asked for`, r.Stdout)) {
		t.Errorf("service poweroff: %v, %+v", err, r)
	}
	m.end(qemu.PowerOff)
	m.inOrder(`keelson .*poweroff: asked for on the control socket`, `web .*stopped in`, `db .*stopped in`, `init .*powering off`)
}

// debug is the debug container of a machine.
type debug struct {
	*vm
	pid int
}

// in is the same for a test within the test.
func (d *debug) in(t *testing.T) *debug { return &debug{d.vm.in(t), d.pid} }

// run runs a command in the debug container.
func (d *debug) run(argv ...string) (code int, out, errs string) {
	d.t.Helper()
	r, err := d.ExecIn(d.ctx, d.pid, argv...)
	if err != nil {
		d.t.Fatal(err)
	}
	return r.Exit, r.Stdout, r.Stderr
}

// expect runs a command and looks at its exit code and at what it wrote, where errors come behind the output.
func (d *debug) expect(code int, pattern string, argv ...string) string {
	d.t.Helper()
	got, out, errs := d.run(argv...)
	if got != code || !matches(pattern, out+errs) {
		d.t.Errorf("%q: exit code %d, want %d and %s\n%s%s", argv, got, code, pattern, out, errs)
	}
	return out
}

// sh is expect for a line of shell.
func (d *debug) script(code int, pattern, line string) string {
	d.t.Helper()
	return d.expect(code, pattern, "/bin/sh", "-c", line)
}

func (d *debug) status(name string) (s api.Service) {
	d.t.Helper()
	_, out, errs := d.run("service", "status", "-o", "json", name)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		d.t.Fatalf("status of %s: %v %s", name, err, errs)
	}
	return s
}

func testLook(t *testing.T, d *debug) {
	d.until("web was found healthy", func() bool { s := d.status("web"); return s.Health != nil && s.Health.State == "healthy" })
	d.expect(0, `(?s)broken +(failed|stopped) .*no/such/program.*web +ready +\S+ +0 +\d+ +\d\S* [KM]iB +healthy`, "service", "list")
	d.expect(0, `(?s)● web: ready.*Process: \d+, started \d.*Health: healthy by http:80/.*Requires: db\n.*Required by: chained\n.*Policy: restart always.*Memory: \d.*CPU: \d.*Cgroup: /services/web\n.*History:\n`,
		"service", "status", "web")
	d.expect(3, `(?s)broken: (failed|stopped).*no/such/program`, "service", "status", "broken")
	d.expect(0, `Machine: running\n`, "service", "status")
	d.expect(0, `(?m)^total `, "service", "top", "-n", "1", "-d", "200ms")
	if s := d.status("web"); s.PID != d.service("web").PID || s.Figures == nil || s.Figures.Memory == 0 || s.Figures.Pids == 0 {
		t.Errorf("the status of web: %+v, figures %+v", s, s.Figures)
	}
	d.expect(0, `stubborn +it has begun`, "service", "logs", "stubborn")
	d.expect(0, `boot complete`, "service", "logs", "--boot-events", "-n", "200")
	d.expect(0, `state +web +.*-> ready`, "service", "events", "web")
	d.expect(3, `did you mean "stubborn"`, "service", "status", "stuborn")
	d.expect(2, `did you mean "restart"`, "service", "retsart")
	d.expect(124, `chained is not failed after 300ms: it is ready`, "service", "wait", "chained", "--for=failed", "--timeout=300ms")
	d.script(0, `^$`, "service completion bash > /tmp/completion && sh -n /tmp/completion 2>&1 | grep -v 'COMPREPLY' | head -c 0")

	out := d.expect(0, `(?s)^boot complete in \d.*hardware +\d.*critical chain.*\n.*kernel @`, "service", "analyze", "chained")
	web, db := strings.LastIndex(out, "─web @"), strings.LastIndex(out, "─db @")
	if !strings.Contains(out, "\nchained @") || web < 0 || db < web {
		t.Errorf("the chain of chained is not chained, web, db:\n%s", out)
	}
	d.expect(0, `(?s)^<svg .*>web <.*</svg>\n$`, "service", "analyze", "plot")
	var b api.Boot
	if err := json.Unmarshal([]byte(d.expect(0, ``, "service", "analyze", "-o", "json")), &b); err != nil {
		t.Fatal(err)
	}
	for _, s := range b.Steps {
		if s.End < s.Start || s.Start < b.InitDone || s.End > b.Complete && s.Name != "containerd" {
			t.Errorf("a step of the boot: %+v, which took from %v to %v", s, b.InitStart, b.Complete)
		}
	}
	for _, name := range []string{"containerd", "hardware", "modules", "volumes"} {
		if !slices.ContainsFunc(b.Steps, func(s api.Step) bool { return s.Name == name }) {
			t.Errorf("the boot has no step %s", name)
		}
	}
	for _, s := range b.Services {
		if s.Name == "web" && !(s.Waiting > 0 && s.Waiting < s.Starting && s.Starting < s.Running && s.Running <= s.Ready) {
			t.Errorf("web's way up: %+v", s)
		}
	}
}

// testAudit judges live processes: a default service, one that may do all, and one that is other than declared.
func testAudit(t *testing.T, d *debug) {
	audit := func(name string) (r api.Audit) {
		t.Helper()
		if err := json.Unmarshal([]byte(d.expect(0, ``, "service", "audit", "-o", "json", name)), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	drift := func(r api.Audit) (facts, checks []string) {
		for _, f := range r.Facts {
			if f.Drifted() {
				facts = append(facts, fmt.Sprintf("%s: declared %s, live %s", f.Name, f.Declared, f.Live))
			}
		}
		for _, f := range r.Findings {
			if f.Declared != "" {
				checks = append(checks, f.ID)
			}
		}
		return facts, checks
	}
	for _, name := range []string{"chained", "web", "db", "guest", "debug"} {
		r := audit(name)
		if facts, checks := drift(r); len(facts) > 0 || len(checks) > 0 || r.PID != d.service(name).PID {
			t.Errorf("%s, which is as declared: %q %q, process %d", name, facts, checks, r.PID)
		}
		if name == "chained" && r.Exposure > 2.0 {
			t.Errorf("a default service has an exposure of %.1f: %+v", r.Exposure, r.Findings)
		}
	}
	if r := audit("debug"); r.Exposure < 9 || r.Level != "UNSAFE" {
		t.Errorf("debug: %.1f %s", r.Exposure, r.Level)
	}
	d.expect(0, `(?s)^NAME +EXPOSURE.*debug +9\.\d +UNSAFE +WritableDev,\S*AllCapabilities\S* +-\n.*chained +[01]\.\d|2\.0 `, "service", "audit")
	d.expect(3, `broken does not run`, "service", "audit", "broken")
	d.expect(3, `did you mean "web"`, "service", "audit", "wbe")

	// A wall that was taken out of the running container, and a limit.
	pid := d.service("chained").PID
	before := audit("chained").Exposure
	if x, err := d.ExecIn(d.ctx, pid, "mount", "-o", "remount,rw,bind", "/proc/sys"); err != nil || x.Exit != 0 {
		t.Fatalf("take a wall out: %v, %+v", err, x)
	}
	d.sh("echo max > /proc/1/root/sys/fs/cgroup/services/chained/pids.max")
	r := audit("chained")
	facts, checks := drift(r)
	if !slices.Equal(checks, []string{"ProtectKernelTunables"}) || len(facts) != 2 || r.Exposure <= before {
		t.Errorf("after its walls were taken out: %.1f, %q, %q", r.Exposure, facts, checks)
	}
	d.expect(0, `(?s)✗ +ProtectKernelTunables +1000 .*declared: no, live: yes.*OTHER THAN DECLARED +DECLARED +LIVE\n(read-only below \S+ \S+ \S+|processes at most) `, "service", "audit", "chained")
	d.expect(0, ``, "service", "restart", "chained")
	if facts, _ := drift(audit("chained")); len(facts) > 0 {
		t.Errorf("made anew it is other than declared: %q", facts)
	}
}

func testExec(t *testing.T, d *debug) {
	d.expect(7, `^out\nerr\n$`, "service", "exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
	d.script(0, `^5\n$`, `printf 'a\nb\nc\nd\ne\n' | service exec -i web -- wc -l`)
	// Every byte, however slowly it is read, and whatever the process has left running.
	d.script(0, `^err 500000 0\nout 500000 0\ntty 500000 0\n$`, `
		slow() { n=0; while k=$(dd bs=65536 count=1 iflag=fullblock 2>/dev/null | wc -c); [ $k -gt 0 ]; do n=$((n+k)); sleep 1.5; done; echo $1 $n $(cat /tmp/code.$1) >/tmp/read.$1; }
		(service exec web -- head -c 500000 /dev/zero; echo $? >/tmp/code.out) | slow out &
		(service exec web -- sh -c "head -c 500000 /dev/zero >&2" 2>&1; echo $? >/tmp/code.err) | slow err &
		(service exec -t web -- head -c 500000 /dev/zero; echo $? >/tmp/code.tty) | slow tty &
		wait; cat /tmp/read.err /tmp/read.out /tmp/read.tty`)
	d.expect(0, `^left\n$`, "service", "exec", "chained", "--", "sh", "-c", "sleep 1000 & echo left")
	d.script(125, `pass its output on, of which the rest is lost: .*no space left`, "service exec web echo hello >/dev/full")
	d.script(0, `^0 4000000\n$`, `head -c 4000000 /dev/zero | service exec -i web cat | wc -c | sed 's/^/0 /'`)
	d.expect(137, ``, "service", "exec", "web", "sh", "-c", "kill -9 $$")
	d.expect(0, `^/dev/pts/\d+\r\n$`, "service", "exec", "-t", "web", "--", "tty")
	d.expect(0, `(?s)A=b\n.*/tmp\n`, "service", "exec", "-e", "A=b", "-w", "/tmp", "web", "sh", "-c", "env; pwd")
	d.expect(127, `no such program: "nothing"`, "service", "exec", "web", "nothing")
	d.expect(125, `broken does not run: it is failed: .*no/such/program`, "service", "exec", "broken", "sh")
	d.expect(125, `backs does not run: it is backoff: exited with code 3`, "service", "exec", "backs", "sh")
	d.expect(2, `service exec -it NAME`, "service", "exec", "web")
	// A terminal of its own, whose size follows ours.
	d.expect(0, `(?s)20 50.*21 51`, "service", "exec", "-t", "debug", "--", "sh", "-c", `tty=$(tty); stty rows 20 cols 50
		(until service exec stubborn -- ls /tmp/resize >/dev/null 2>&1; do sleep 0.1; done; stty rows 21 cols 51 -F $tty) &
		service exec -it stubborn -- sh -c "stty size; touch /tmp/resize; until stty size | grep 51; do sleep 0.1; done"`)
	// An interrupt is typed: it is for the command, not for us.
	d.script(0, `code 130\r\n`, `(until ps -o args | grep -q '^sleep 98765'; do sleep 0.1; done; printf '\003'; until ! ps -o args | grep -q '^sleep 98765'; do sleep 0.1; done) |
		service exec -it debug -- sh -c "service exec -it stubborn -- sleep 98765; echo code \$?"`)
	// A container that ends takes the command along, and nobody waits for it.
	d.script(0, `^code 137\n$`, `(service exec chained -- sleep 54321; echo "code $?" > /tmp/code) & until ps -o args | grep -q '^sleep 54321'; do sleep 0.1; done
		service kill -s KILL chained; wait; cat /tmp/code`)
	d.expect(0, `chained is ready`, "service", "wait", "chained", "--timeout=1m")
	// The process of a client that has gone ends too.
	d.script(0, ``, `service exec web -- sleep 12345 & client=$!; until ps -o args | grep -q '^sleep 12345'; do sleep 0.1; done; kill -9 $client`)
	d.until("the command of a client that was killed has ended", func() bool {
		return !slices.ContainsFunc(d.processes(), func(p guestagent.Process) bool {
			return slices.Contains(p.Argv, "12345") && p.State != "Z" && p.Argv[0] == "sleep"
		})
	})
	if left := d.sh("ls /proc/1/root/run/keelson/exec | wc -l"); strings.TrimSpace(left) != "0" {
		t.Errorf("%s folders of commands that have ended are left", left)
	}
}

// testForms is what every subcommand has in common: JSON, several names, and outputs that take nothing.
func testForms(t *testing.T, d *debug) {
	for _, command := range []string{
		"list", "status", "status web db", "audit", "audit web db", "top -n 1 -d 100ms", "wait web db", "logs -n 3", "events", "analyze", "analyze chained",
		"start web db", "kill -s CONT web db", "reload web db",
	} {
		out := d.expect(0, ``, append([]string{"service"}, strings.Fields(command+" -o json")...)...)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		for _, line := range lines {
			if !json.Valid([]byte(line)) {
				t.Errorf("service %s -o json: %q", command, line)
			}
		}
		if want := strings.Contains(command, "web db"); want && len(lines) != 2 {
			t.Errorf("service %s -o json has %d lines", command, len(lines))
		}
	}
	d.expect(3, `(?s)● web: ready.*there is no service "wbe"; did you mean "web"\?`, "service", "status", "web", "wbe")
	d.expect(3, `there is no service "we/b"; did you mean "web"\?`, "service", "status", "we/b")
	d.expect(2, `which service\? service list shows them`, "service", "restart")
	d.expect(1, `no space left on device`, "/bin/sh", "-c", "service list > /dev/full")
	d.script(0, `^NAME `, "service list | head -n 1")
	// Who reads no further ends what is followed.
	d.script(0, `^ *\d+\.\d{3}  `, "(service logs -f --boot-events; :) | head -n 1")
	d.script(0, `^complete -F _service service\n$`, "service completion bash | tail -n 1")
}

func testSteer(t *testing.T, d *debug) {
	before := d.pids("web", "db", "chained")
	d.expect(0, `web is ready \(pid \d+\)`, "service", "restart", "web")
	after := d.pids("web", "db", "chained")
	if after["web"] == before["web"] || after["chained"] == before["chained"] || after["db"] != before["db"] {
		t.Errorf("a restart of web: before %v, after %v", before, after)
	}
	d.expect(0, `db is stopped`, "service", "stop", "db")
	d.expect(0, `(?s)chained +(stopped|waiting).*db +stopped.*web +(stopped|waiting)`, "service", "list")
	d.expect(0, `chained is ready`, "service", "start", "chained") // and what it requires, down to db
	d.expect(0, `db is ready`, "service", "wait", "db", "--timeout=10s")
	d.expect(0, `stubborn is stopped`, "service", "stop", "stubborn")
	if s := d.status("stubborn"); s.LastExit == nil || s.LastExit.Signal != "SIGKILL" {
		t.Errorf("stubborn's last exit is %+v", s.LastExit)
	}
	d.expect(1, `no/such/program`, "service", "start", "broken")
	pid := d.service("chained").PID
	d.expect(0, ``, "service", "kill", "-s", "KILL", "chained")
	d.serviceAfter("chained", pid)
	d.expect(0, `chained is ready`, "service", "wait", "chained", "--timeout=30s")
	if s := d.status("chained"); s.Restarts == 0 || s.LastExit == nil || s.LastExit.Signal != "SIGKILL" {
		t.Errorf("after kill -s KILL: %d restarts, last exit %+v", s.Restarts, s.LastExit)
	}
	d.expect(124, `never is not ready yet: it is running`, "service", "start", "never", "--timeout=1s")
	d.expect(0, `never is stopped`, "service", "stop", "never")
}

// testReload changes a configuration in the way the documentation says: the root is read-only, but for who makes it
// writable for himself.
func testReload(t *testing.T, d *debug) {
	const config = "/containers/services/chained/config.json"
	d.script(0, ``, "cp "+config+" /tmp/chained.json; mount -o remount,rw,bind /containers/services")
	change := func(sed string) { d.script(0, ``, "sed '"+sed+"' /tmp/chained.json > "+config) }
	was := d.status("chained")

	// What is wrong is said with its place, and changes nothing.
	change(`1s/.*/{"process": {"args": 7}}/; 2,$d`)
	d.expect(1, config+`:1: process\.args is a number, want a list`, "service", "reload", "chained")
	change(`s/"keelson.requires"/"keelson.requiers"/`)
	d.expect(1, config+`: .*keelson\.requiers.*did you mean "?keelson\.requires`, "service", "reload", "chained")
	change(`s/"keelson.requires": *"web"/"keelson.requires":"chained"/`)
	d.expect(1, config+`: .*chained`, "service", "reload", "chained")
	if now := d.status("chained"); now.PID != was.PID || now.State != "ready" || len(now.Requires) != 1 || now.Requires[0] != "web" || len(now.Problems) > 0 {
		t.Errorf("after what could not be read: %+v", now)
	}

	// Policy is in force at once, the command from the next start.
	change(`s/"keelson.requires"/"keelson.restart":"never","keelson.requires"/; s/"1000"/"2000"/`)
	d.expect(0, `chained: read again; what is not policy is in force from its next start`, "service", "reload", "chained")
	now := d.status("chained")
	if now.PID != was.PID || now.Policy.Restart != "never" || !slices.Equal(d.service("chained").Argv, []string{"sleep", "1000"}) {
		t.Errorf("read again, it is %+v, %q", now, d.service("chained").Argv)
	}
	d.expect(0, ``, "service", "kill", "-s", "KILL", "chained")
	d.expect(0, `chained is (stopped|failed)`, "service", "wait", "chained", "--for=stopped,failed")
	d.expect(0, `chained is ready`, "service", "start", "chained")
	if argv := d.service("chained").Argv; !slices.Equal(argv, []string{"sleep", "2000"}) {
		t.Errorf("started again, it is %q", argv)
	}
	change("")
	d.expect(0, `read again`, "service", "reload", "chained")
	d.script(0, ``, "mount -o remount,ro,bind /containers")
}

func testLinuxKitForms(t *testing.T, d *debug) {
	d.expect(0, `^$`, "service", "-q", "stop", "-sock", "/run/containerd/containerd.sock", "stubborn")
	d.expect(0, `^$`, "service", "-q", "-containerd-namespace", "services.linuxkit", "start", "-sock", "/run/containerd/containerd.sock",
		"-path", "/containers/services", "-dump-spec", "/tmp/spec.json", "stubborn")
	d.script(0, `"cgroupsPath":"/services/stubborn"`, "cat /tmp/spec.json")
	was := d.service("stubborn").PID
	d.expect(0, `^stubborn is ready \(pid \d+\)\n`, "service", "-v", "restart", "-dump-spec", "/tmp/again.json", "-path", "/containers/services/", "-sock", "/run/containerd/containerd.sock", "stubborn")
	d.serviceAfter("stubborn", was)
	d.script(0, `^$`, `[ "$(cat /tmp/spec.json)" = "$(cat /tmp/again.json)" ]`)
	d.expect(1, `/containers/services/nothing/config.json: no such file`, "service", "start", "-dump-spec", "/tmp/none.json", "nothing")
	d.expect(1, `the supervisor keeps /containers/services/web, not /elsewhere/web`, "service", "stop", "-path", "/elsewhere", "web")
	d.expect(1, `lives in containerd's namespace services.linuxkit`, "service", "-containerd-namespace", "other", "start", "web")
	d.expect(0, `the machine is running`, "service", "-v", "system-init")
	d.script(0, `the supervisor does this by itself`, "ln -s /usr/bin/service /tmp/010-onboot; /tmp/010-onboot")
}

func testSocket(t *testing.T, d *debug) {
	if f, err := d.Stat(d.ctx, "/run/keelson/control.sock"); err != nil || f.Mode&0o777 != 0o600 {
		t.Errorf("the socket: %+v %v", f, err)
	}
	// It may open the socket, and is not root.
	d.expect(4, `user 1000 may not steer this machine`, "service", "exec", "guest", "--", "service", "list")
	// Plain HTTP, as curl --unix-socket speaks it.
	for path, want := range map[string]string{
		"/v1/machine": `(?s)^HTTP/1.1 200 OK\r\n.*"state":"running"`, "/v2/machine": `(?s)^HTTP/1.1 404 Not Found\r\n.*"want":"/v1/`,
	} {
		if got := d.sh(talk(path)); !matches(want, got) {
			t.Errorf("%s: %q, want %s", path, got, want)
		}
	}
	// Clients of one container that take every connection it may have: the services are kept all the same.
	d.sh(`for i in $(seq 64); do ` + talk("/v1/events?follow=1") + ` >/dev/null 2>&1 & done`)
	d.until("all connections of the container are taken", func() bool {
		return matches(`(?s)^HTTP/1.1 503 .*agent has 24 connections`, d.sh(talk("/v1/machine")))
	})
	pid := d.service("web").PID
	d.kill(pid, syscall.SIGKILL)
	d.serviceAfter("web", pid)
	d.sh("kill $(ps -o pid,args | grep '[g]uestagent talk' | awk '{print $1}')")
	d.expect(0, `web is ready`, "service", "wait", "web", "--timeout=30s")
}

// talk is a line of shell in the agent's container that asks the supervisor in plain HTTP.
func talk(path string) string {
	return fmt.Sprintf(`printf 'GET %s HTTP/1.1\r\nHost: k\r\n\r\n' | guestagent talk /proc/1/root/run/keelson/control.sock`, path)
}

// testAcrossSupervisor kills the supervisor: who waits goes on, what was stopped stays so.
func testAcrossSupervisor(t *testing.T, d *debug) {
	d.expect(0, `never is stopped`, "service", "stop", "never")
	d.expect(0, `chained is stopped`, "service", "stop", "chained")
	web, was := d.service("web").PID, d.supervisor(0).PID
	d.script(0, ``, `(service logs -f -n 0 --boot-events > /tmp/followed 2>&1 &) ; (service wait chained --timeout=2m > /tmp/waited 2>&1 &) ; sleep 0.5`)
	d.kill(was, syscall.SIGKILL)
	d.supervisor(was)
	d.await(`supervisor is back`)
	d.expect(0, `(?s)chained +stopped.*never +stopped.*web +ready`, "service", "list")
	if d.service("web").PID != web {
		t.Error("web was started again")
	}
	d.expect(0, `boot complete in`, "service", "analyze") // remembered
	d.expect(0, `chained is ready`, "service", "start", "chained")
	d.until("the wait of before is over", func() bool { return strings.Contains(d.readIn("/tmp/waited"), "chained is ready") })
	d.until("the log is followed on", func() bool { return strings.Contains(d.readIn("/tmp/followed"), "supervisor is back") })
}

// readIn reads a file of the debug container.
func (d *debug) readIn(path string) string {
	d.t.Helper()
	text, err := d.ReadFileIn(d.ctx, d.pid, path)
	if err != nil {
		d.t.Fatal(err)
	}
	return text
}

// matches reports whether a pattern is in a text.
func matches(pattern, text string) bool { return regexp.MustCompile(pattern).MatchString(text) }
