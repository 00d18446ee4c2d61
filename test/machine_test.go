//go:build vm

package test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"keelson/internal/guestagent"
	"keelson/internal/qemu"
)

// bound is how long one machine may take for everything that is asked of it.
const bound = 20 * time.Minute

// poll is how often a fact is looked at that has no event to wait for.
const poll = 200 * time.Millisecond

// agentService is what is added to an image to look into it. It writes to no root, so it runs even where there is
// no overlay.
const agentService = `
  - name: agent
    image: keelson/guestagent
    capabilities: [all]
    pid: host
    readonly: true
    binds: ["/dev:/dev:rbind,rslave"]
    devices: [{path: all, type: a}]
    annotations: {keelson.stop.timeout: 1s}
`

// setup is a machine to boot.
type setup struct {
	file  string            // an image YAML of ../testdata or testdata
	yaml  string            // or its text
	swap  map[string]string // replacements in the text: images by others
	dir   string            // where the tarballs are that the image names, if it names any
	agent bool              // add the agent
	files []file            // put over the root that mkimage made
	// faulty: something in it cannot work, which mkimage is not to refuse. With files it may
	// need what they bring.
	faulty bool
	qemu.Config
}

// file is a file or, with a mode of a folder, a folder of the root.
type file struct {
	path string
	mode cpio.FileMode
	data string
}

// folder and text make files of the root.
func folder(path string) file     { return file{path, cpio.TypeDir | 0o755, ""} }
func text(path, data string) file { return file{path, cpio.TypeReg | 0o644, data} }

func buildDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("KEELSON_BUILD")
	if dir == "" {
		dir = "../build"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// mkimage runs the tool that was built and returns what it said.
func mkimage(t *testing.T, args ...string) (string, error) {
	t.Helper()
	build := buildDir(t)
	command := exec.CommandContext(t.Context(), filepath.Join(build, "bin/mkimage"), args...)
	command.Env = append(os.Environ(), "KEELSON_STORE="+filepath.Join(build, "store"))
	output, err := command.CombinedOutput()
	return string(output), err
}

// image builds what the setup describes and returns it ready to boot.
func image(t *testing.T, s setup) qemu.Config {
	t.Helper()
	if s.file != "" {
		data, err := os.ReadFile(filepath.Join("testdata", s.file))
		if os.IsNotExist(err) {
			data, err = os.ReadFile(filepath.Join("../testdata", s.file))
		}
		if err != nil {
			t.Fatal(err)
		}
		s.yaml = string(data)
	}
	if s.agent {
		if !strings.Contains(s.yaml, "\nservices:\n") {
			t.Fatal("the image has no services to add the agent to")
		}
		s.yaml = strings.Replace(s.yaml, "\nservices:\n", "\nservices:"+agentService, 1)
	}
	for from, to := range s.swap {
		if !strings.Contains(s.yaml, from) {
			t.Fatalf("the image has no %q to replace", from)
		}
		s.yaml = strings.ReplaceAll(s.yaml, from, to)
	}
	dir := s.dir
	if dir == "" {
		dir = t.TempDir()
	}
	source := filepath.Join(dir, "image.yml")
	if err := os.WriteFile(source, []byte(s.yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	arguments := []string{"build", "-o", dir, "--name", "image", source}
	if s.faulty || len(s.files) > 0 {
		arguments = append(arguments, "--lenient")
	}
	if output, err := mkimage(t, arguments...); err != nil {
		t.Fatalf("mkimage: %v\n%s", err, output)
	}
	config, err := qemu.Load(filepath.Join(dir, "image"))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.files) > 0 {
		appendFiles(t, config.Initrd, s.files)
	}
	given := s.Config
	given.Kernel, given.Initrd, given.Cmdline = config.Kernel, config.Initrd, config.Cmdline
	given.Agent = given.Agent || s.agent
	return given
}

// appendFiles adds an archive to an initrd: the kernel unpacks one after the other, and what comes later wins.
func appendFiles(t *testing.T, initrd string, files []file) {
	t.Helper()
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	for _, f := range files {
		header := &cpio.Header{Name: f.path, Mode: f.mode, Size: int64(len(f.data)), Links: 1}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	original, err := os.ReadFile(initrd)
	if err != nil {
		t.Fatal(err)
	}
	for len(original)%512 != 0 {
		original = append(original, 0)
	}
	if err := os.WriteFile(initrd, append(original, archive.Bytes()...), 0o644); err != nil {
		t.Fatal(err)
	}
}

// vm is a running machine; its methods end the test where something cannot be had.
type vm struct {
	*qemu.Machine
	t   *testing.T
	ctx context.Context
}

// in is the same machine for a test within the test.
func (m *vm) in(t *testing.T) *vm { return &vm{m.Machine, t, m.ctx} }

// boot builds an image and starts it. The console is in the test's output when the test fails.
func boot(t *testing.T, s setup) *vm {
	t.Helper()
	return start(t, image(t, s))
}

// start starts a machine that is ready to boot.
func start(t *testing.T, config qemu.Config) *vm {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	t.Cleanup(cancel)
	if os.Getenv("KEELSON_CONSOLE") != "" {
		name := t.Name()
		config.Echo = func(line string) { fmt.Fprintf(os.Stderr, "%s: %s\n", name, line) }
	}
	m, err := qemu.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if t.Failed() {
			t.Logf("console:\n%s", m.Console)
		}
	})
	return &vm{m, t, ctx}
}

// await waits for a line of the console, from its beginning on.
func (m *vm) await(pattern string) string {
	m.t.Helper()
	line, err := m.Await(m.ctx, pattern)
	if err != nil {
		m.t.Fatal(err)
	}
	return line
}

// awaitFrom waits for a line of the console from line number from on.
func (m *vm) awaitFrom(from int, pattern string) string {
	m.t.Helper()
	line, _, err := m.Console.Await(m.ctx, from, pattern)
	if err != nil {
		m.t.Fatal(err)
	}
	return line
}

// booted waits until the boot is over and the agent answers.
func (m *vm) booted() {
	m.t.Helper()
	m.await(`boot complete`)
	if err := m.AwaitAgent(m.ctx); err != nil {
		m.t.Fatal(err)
	}
}

// until waits until a fact holds. What names it for the failure.
func (m *vm) until(what string, holds func() bool) {
	m.t.Helper()
	for !holds() {
		select {
		case <-m.ctx.Done():
			m.t.Fatalf("waited in vain: %s", what)
		case <-time.After(poll):
		}
	}
}

func (m *vm) read(path string) string {
	m.t.Helper()
	data, err := m.ReadFile(m.ctx, path)
	if err != nil {
		m.t.Fatal(err)
	}
	return data
}

// sh runs a shell script in the agent's container and returns its output.
func (m *vm) sh(script string) string {
	m.t.Helper()
	output, err := m.Output(m.ctx, "/bin/sh", "-c", script)
	if err != nil {
		m.t.Fatal(err)
	}
	return output
}

func (m *vm) processes() []guestagent.Process {
	m.t.Helper()
	all, err := m.Processes(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	return all
}

func (m *vm) kill(pid int, signal syscall.Signal) {
	m.t.Helper()
	if err := m.Kill(m.ctx, pid, signal); err != nil {
		m.t.Fatal(err)
	}
}

// first returns the first process of a cgroup: the one whose parent is not in it. PID 0 if there is none.
func first(all []guestagent.Process, cgroup string) guestagent.Process {
	inside := map[int]bool{}
	for _, p := range all {
		if p.Cgroup == cgroup {
			inside[p.PID] = true
		}
	}
	for _, p := range all {
		// A process on its way into a container is a runtime's still.
		if inside[p.PID] && !inside[p.Parent] && p.State != "Z" && !strings.HasPrefix(p.Name, "runc") {
			return p
		}
	}
	return guestagent.Process{}
}

// service waits until a service runs, and returns its first process.
func (m *vm) service(name string) guestagent.Process {
	m.t.Helper()
	return m.serviceAfter(name, 0)
}

// serviceAfter waits until a service runs with another process than the one before.
func (m *vm) serviceAfter(name string, before int) guestagent.Process {
	m.t.Helper()
	var found guestagent.Process
	m.until("service "+name+" runs", func() bool {
		found = first(m.processes(), "/services/"+name)
		return found.PID != 0 && found.PID != before && found.Name != "containerd-shim" && found.Name != "runc:[2:INIT]"
	})
	return found
}

// pids returns the first process of each of these services, which must all run.
func (m *vm) pids(names ...string) map[string]int {
	m.t.Helper()
	pids := map[string]int{}
	for _, name := range names {
		pids[name] = m.service(name).PID
	}
	return pids
}

// program returns the process that was started with these arguments, waiting for one other than before.
func (m *vm) program(before int, argv ...string) guestagent.Process {
	m.t.Helper()
	var found guestagent.Process
	m.until(fmt.Sprintf("%q runs", argv), func() bool {
		for _, p := range m.processes() {
			if p.PID != before && p.State != "Z" && len(p.Argv) >= len(argv) && slices.Equal(p.Argv[:len(argv)], argv) {
				found = p
				return true
			}
		}
		return false
	})
	return found
}

// supervisor, containerd and shims are the parts of the system, as processes.
func (m *vm) supervisor(before int) guestagent.Process {
	m.t.Helper()
	return m.program(before, "/usr/bin/service", "supervise")
}

func (m *vm) containerd(before int) guestagent.Process {
	m.t.Helper()
	return m.program(before, "/usr/bin/containerd")
}

func (m *vm) shims() []guestagent.Process {
	m.t.Helper()
	var shims []guestagent.Process
	for _, p := range m.processes() {
		// Its file may be a sealed copy in memory, so its name tells nothing. With "start" and "delete" it is not
		// the shim itself but a helper that ends soon.
		if p.State != "Z" && len(p.Argv) > 1 && filepath.Base(p.Argv[0]) == "containerd-shim-runc-v2" && p.Argv[1] == "-namespace" &&
			!slices.Contains(p.Argv, "start") && !slices.Contains(p.Argv, "delete") {
			shims = append(shims, p)
		}
	}
	return shims
}

// lean fails the test where what a process of the machine's own had before its first line may be given huge pages, or
// where a process that it started is kept from having them.
func (m *vm) lean(own ...guestagent.Process) {
	m.t.Helper()
	for _, p := range own {
		// The first memory of no file is the program's zeroed data; "nh" is for no huge pages.
		_, zeroed, found := strings.Cut(m.read(fmt.Sprintf("/proc/%d/smaps", p.PID)), " rw-p 00000000 00:00 0 ")
		_, flags, _ := strings.Cut(zeroed, "\nVmFlags:")
		flags, _, _ = strings.Cut(flags, "\n")
		if !found || !slices.Contains(strings.Fields(flags), "nh") {
			m.t.Errorf("%q may be given huge pages: %q", p.Argv, flags)
		}
	}
	for _, p := range append(own, m.service("agent")) {
		if status := m.read(fmt.Sprintf("/proc/%d/status", p.PID)); !strings.Contains(status, "\nTHP_enabled:\t1\n") {
			m.t.Errorf("%q and its children may not have huge pages", p.Argv)
		}
	}
}

// sendLast sends a signal to PID 1 that ends the machine, which may be gone before it can say that the signal was sent.
func (m *vm) sendLast(signal syscall.Signal) {
	m.t.Helper()
	if err := m.Kill(m.ctx, 1, signal); err != nil && !errors.Is(err, qemu.ErrEnded) {
		m.t.Fatal(err)
	}
}

// end waits for the machine's end, which must be this one.
func (m *vm) end(want qemu.End) {
	m.t.Helper()
	got, err := m.Wait(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	if got != want {
		m.t.Errorf("the machine's end is %q, not %q", got, want)
	}
}

// inOrder fails the test unless the console has lines for these patterns in this order.
func (m *vm) inOrder(patterns ...string) {
	m.t.Helper()
	next := 0
	for _, pattern := range patterns {
		line, after, err := m.Console.Await(m.ctx, next, pattern)
		if err != nil {
			m.t.Errorf("after line %d: %v", next, err)
			return
		}
		_ = line
		next = after
	}
}

// once waits for a line that matches the pattern, and fails the test where there is another such line already.
func (m *vm) once(pattern string) {
	m.t.Helper()
	line := m.await(pattern)
	count := 0
	for _, l := range m.Console.Lines(0) {
		if regexp.MustCompile(pattern).MatchString(l) {
			count++
		}
	}
	if count != 1 {
		m.t.Errorf("the console shows %d times %q", count, line)
	}
}

// lacks fails the test where a line of the console contains the text.
func (m *vm) lacks(text string) {
	m.t.Helper()
	for _, line := range m.Console.Lines(0) {
		if strings.Contains(line, text) {
			m.t.Errorf("the console shows %q", line)
		}
	}
}

// never says that no line matches a pattern.
func (m *vm) never(pattern string) {
	m.t.Helper()
	for _, line := range m.Console.Lines(0) {
		if matches(pattern, line) {
			m.t.Errorf("the console shows %q", line)
		}
	}
}

// page fetches a page from the guest through a forwarded port, waiting until it answers.
func (m *vm) page(port int) string {
	m.t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	var body []byte
	m.until("the web page answers", func() bool {
		response, err := client.Get("http://" + m.Addr(port) + "/")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, err = io.ReadAll(response.Body)
		return err == nil && response.StatusCode == http.StatusOK
	})
	return string(body)
}

// ping asks a redis for an answer, waiting until it gives one.
func (m *vm) ping(port int) {
	m.t.Helper()
	m.until("redis answers PING", func() bool {
		conn, err := net.DialTimeout("tcp", m.Addr(port), 10*time.Second)
		if err != nil {
			return false
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
			return false
		}
		answer := make([]byte, 7)
		_, err = io.ReadFull(conn, answer)
		return err == nil && string(answer) == "+PONG\r\n"
	})
}

// mount is a line of /proc/PID/mountinfo; see proc(5).
type mount struct {
	root, point, options, optional, kind, source, super string
}

func (m *vm) mounts() []mount {
	m.t.Helper()
	return m.mountsOf(1)
}

// mountsOf are those that a process has.
func (m *vm) mountsOf(pid int) []mount {
	m.t.Helper()
	var all []mount
	for line := range strings.Lines(m.read(fmt.Sprintf("/proc/%d/mountinfo", pid))) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			m.t.Fatalf("not a line of mountinfo: %q", line)
		}
		all = append(all, mount{left[3], left[4], left[5], strings.Join(left[6:], " "), right[0], right[1], right[2]})
	}
	return all
}

// mountsBelow counts the mounts at or below a path.
func (m *vm) mountsBelow(path string) int {
	m.t.Helper()
	count := 0
	for _, mount := range m.mounts() {
		if mount.point == path || strings.HasPrefix(mount.point, path+"/") {
			count++
		}
	}
	return count
}

// disk makes an empty disk image.
func disk(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// cleanly says whether the ext2 file system of a disk image was unmounted: s_state of its superblock.
func cleanly(t *testing.T, path string) bool {
	t.Helper()
	disk, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	superblock := make([]byte, 1024)
	if _, err := disk.ReadAt(superblock, 1024); err != nil {
		t.Fatal(err)
	}
	if magic := binary.LittleEndian.Uint16(superblock[56:]); magic != 0xef53 {
		t.Fatalf("%s holds no ext2 file system (magic %#x)", path, magic)
	}
	return binary.LittleEndian.Uint16(superblock[58:]) == 1
}
