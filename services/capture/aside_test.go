package capture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
)

// obstacles are what a container may put in a log file's place.
var obstacles = []struct {
	name, says string
	make       func(path, outside string) error
}{
	{"link", "is a symbolic link", func(path, outside string) error { return os.Symlink(outside, path) }},
	{"link to a directory", "is a symbolic link", func(path, outside string) error { return os.Symlink(filepath.Dir(outside), path) }},
	{"link to nothing", "is a symbolic link", func(path, outside string) error { return os.Symlink(outside+".new", path) }},
	{"directory", "is a directory, not a regular file", func(path, _ string) error { return os.MkdirAll(path+"/full", 0o755) }},
	{"FIFO", "is a FIFO, not a regular file", func(path, _ string) error { return unix.Mkfifo(path, 0o644) }},
	{"device", "is a device, not a regular file", func(path, _ string) error {
		return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5)))
	}},
	{"hard link", "has 2 names", func(path, outside string) error { return os.Link(outside, path) }},
	{"foreign owner", "belongs to uid 1000", func(path, _ string) error {
		return errors.Join(os.WriteFile(path, []byte("theirs\n"), 0o666), os.Chown(path, 1000, 1000))
	}},
}

// words are what was reported.
type words struct {
	mu  sync.Mutex
	all []string
}

func (w *words) warn(format string, a ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, fmt.Sprintf(format, a...))
}

func (w *words) now() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

// guarded makes a stream whose directory somebody else can write to, and a file of theirs
// beside it.
func guarded(t *testing.T, dir string) (s *Stream, w *os.File, said *words, outside string) {
	t.Helper()
	outside = filepath.Join(dir, "outside")
	must(t, os.WriteFile(outside, []byte("theirs\n"), 0o644))
	must(t, os.MkdirAll(filepath.Join(dir, "log"), 0o755))
	said = &words{}
	src := source(dir)
	src.Warn = said.warn
	s = openSource(t, machine(t, dir, 1<<30), src)
	t.Cleanup(func() { s.Close(false) })
	w = writer(t, s)
	t.Cleanup(func() { _ = w.Close() })
	return s, w, said, outside
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can make devices and give files away")
	}
}

func untouched(t *testing.T, outside string) {
	t.Helper()
	if data, err := os.ReadFile(outside); err != nil || string(data) != "theirs\n" {
		t.Errorf("outside: %.100q, %v", data, err)
	}
	if _, err := os.Lstat(outside + ".new"); err == nil {
		t.Error("what a link leads to was made")
	}
}

// rest waits until nobody copies: who removes a file before that may take a line with it.
func rest(s *Stream) {
	s.export.flush(time.Minute)
	for {
		s.export.mu.Lock()
		busy := s.export.busy
		s.export.mu.Unlock()
		if !busy {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// await waits for a file to have a text at its end.
func await(t *testing.T, path, text string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		data, err := os.ReadFile(path)
		if err == nil && bytes.HasSuffix(data, []byte(text)) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %.100q, %v; want %q", path, data, err, text)
		}
	}
}

// What is put in a file's place while it is open, or before, gets another name, and the log
// a new file.
func TestObstaclesArePutAside(t *testing.T) {
	needRoot(t)
	for _, o := range obstacles {
		for _, open := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, open %v", o.name, open), func(t *testing.T) {
				t.Parallel()
				s, w, said, outside := guarded(t, t.TempDir())
				path := s.src.File
				fmt.Fprintln(w, "one")
				await(t, path, "one\n")
				rest(s)
				if !open {
					s.export.release()
				}
				must(t, os.Remove(path))
				must(t, o.make(path, outside))
				fmt.Fprintln(w, "two")
				s.export.flush(time.Minute)
				if fi, err := os.Lstat(path); err != nil || !fi.Mode().IsRegular() {
					t.Fatalf("the file is %v, %v", fi, err)
				}
				await(t, path, "two\n")
				untouched(t, outside)
				if _, err := os.Lstat(path + ".refused.1"); err != nil {
					t.Error(err)
				}
				all := said.now()
				if len(all) != 1 || !strings.Contains(all[0], path+" "+o.says) || !strings.Contains(all[0], "web.log.refused.1 now") {
					t.Errorf("said %q", all)
				}
			})
		}
	}
}

// What is put under the names of old files is moved or replaced, and the log goes on being
// moved aside.
func TestObstaclesWhereOldFilesAre(t *testing.T) {
	needRoot(t)
	for _, o := range obstacles {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			dir := inMemory(t)
			s, w, said, outside := guarded(t, dir)
			for i := 1; i < rotateKeep; i++ {
				must(t, o.make(numbered(s.src.File, i), outside))
				if o.name == "hard link" {
					break
				}
			}
			line := append(bytes.Repeat([]byte{'x'}, 1023), '\n')
			for range 3 * rotateBytes / len(line) {
				_, err := w.Write(line)
				must(t, err)
			}
			s.export.flush(time.Minute)
			for _, path := range []string{s.src.File, numbered(s.src.File, 1)} {
				if fi, err := os.Lstat(path); err != nil || !fi.Mode().IsRegular() || fi.Size() > 2*rotateBytes {
					t.Errorf("%s is %v, %v", path, fi, err)
				}
			}
			untouched(t, outside)
			if all := said.now(); len(all) > 0 {
				t.Errorf("said %q", all)
			}
		})
	}
}

// Somebody puts links in the place of the file, and of the old ones, all the time while a
// lot is written.
func TestLinksWhileMuchIsWritten(t *testing.T) {
	for _, where := range []string{"memory", "disk"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if where == "memory" {
				dir = inMemory(t)
			}
			s, w, _, outside := guarded(t, dir)
			stop, done := make(chan struct{}), make(chan struct{})
			planted := 0
			go func() {
				defer close(done)
				log := filepath.Dir(s.src.File)
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					case <-time.After(100 * time.Microsecond):
					}
					to := []string{outside, outside + ".new", "/proc/self/comm"}[i%3]
					_ = os.Symlink(to, filepath.Join(log, "x"))
					if os.Rename(filepath.Join(log, "x"), numbered(s.src.File, i%3)) == nil {
						planted++
					}
					if i%3 == 0 {
						_ = os.Symlink(to, filepath.Join(log, "x"))
						_ = os.Rename(filepath.Join(log, "x"), s.src.File)
					}
					for _, name := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9"} {
						_ = os.Remove(s.src.File + ".refused." + name)
					}
				}
			}()
			line := append(bytes.Repeat([]byte{'x'}, 1023), '\n')
			for range 20 * rotateBytes / len(line) {
				_, err := w.Write(line)
				must(t, err)
			}
			close(stop)
			<-done
			fmt.Fprintln(w, "the end")
			await(t, s.src.File, "the end\n")
			untouched(t, outside)
			if planted < 10 {
				t.Errorf("only %d links were planted", planted)
			}
		})
	}
}

// Where nothing can be put aside, the file waits until the obstacle is gone and has all then;
// another log goes on.
func TestAnObstacleThatStays(t *testing.T) {
	dir := t.TempDir()
	s, w, said, outside := guarded(t, dir)
	src := source(dir)
	src.Name, src.Pipe, src.File, src.Warn = "other", filepath.Join(dir, "io", "other"), filepath.Join(dir, "log", "other.log"), t.Errorf
	other := openSource(t, s.sys, src)
	defer other.Close(false)
	theirs := writer(t, other)
	defer theirs.Close()
	fmt.Fprintln(w, "one")
	await(t, s.src.File, "one\n")
	rest(s)
	for i := 1; i <= 9; i++ {
		must(t, os.WriteFile(fmt.Sprintf("%s.refused.%d", s.src.File, i), nil, 0o644))
	}
	must(t, os.Remove(s.src.File))
	must(t, os.Symlink(outside, s.src.File))
	fmt.Fprintln(w, "two")
	fmt.Fprintln(theirs, "hello")
	await(t, src.File, "hello\n")
	s.export.flush(100 * time.Millisecond)
	fmt.Fprintln(w, "three")
	s.export.flush(100 * time.Millisecond)
	untouched(t, outside)
	all := said.now()
	if len(all) != 1 || !strings.Contains(all[0], "is a symbolic link") || !strings.Contains(all[0], "remove it") {
		t.Errorf("said %q", all)
	}
	must(t, os.Remove(s.src.File))
	await(t, s.src.File, "three\n")
	if data, err := os.ReadFile(s.src.File); err != nil || string(data) != "two\nthree\n" {
		t.Errorf("%q, %v", data, err)
	}
	s.export.flush(time.Minute)
	if all := said.now(); len(all) != 2 || !strings.Contains(all[1], "is written again; nothing is missing") {
		t.Errorf("said %q", all)
	}
}

// A directory of logs that somebody makes a link waits to be one again.
func TestALinkOnTheWay(t *testing.T) {
	dir := t.TempDir()
	s, w, said, outside := guarded(t, dir)
	fmt.Fprintln(w, "one")
	await(t, s.src.File, "one\n")
	rest(s)
	log := filepath.Dir(s.src.File)
	elsewhere := filepath.Join(dir, "elsewhere")
	must(t, errors.Join(os.Mkdir(elsewhere, 0o755), os.Rename(log, log+".old"), os.Symlink(elsewhere, log)))
	fmt.Fprintln(w, "two")
	s.export.flush(time.Second)
	if files, err := os.ReadDir(elsewhere); err != nil || len(files) > 0 {
		t.Errorf("where the link leads: %v, %v", files, err)
	}
	if all := said.now(); len(all) != 1 || !strings.Contains(all[0], log+" is a symbolic link") || !strings.Contains(all[0], "mount a directory there") {
		t.Errorf("said %q", all)
	}
	must(t, os.Remove(log))
	await(t, s.src.File, "two\n")
	untouched(t, outside)
}

// What a link leads to is not taken for what a file takes of the memory, or others' old
// files had to go.
func TestALinkToAHugeFile(t *testing.T) {
	dir := inMemory(t)
	s, w, _, outside := guarded(t, dir)
	y := s.sys
	y.cfg.Memory = 8 << 20
	must(t, os.Truncate(outside, 1<<40))
	src := source(dir)
	src.Name, src.Pipe, src.File, src.Warn = "evil", filepath.Join(dir, "io", "evil"), filepath.Join(dir, "log", "evil.log"), t.Errorf
	must(t, os.Symlink(outside, src.File+".1"))
	fmt.Fprintln(w, "one")
	await(t, s.src.File, "one\n")
	y.rotated(s.src.File, 4)
	evil := openSource(t, y, src)
	defer evil.Close(false)
	y.mu.Lock()
	defer y.mu.Unlock()
	if h := y.held[src.File]; h == nil || h.total() > 2*rotateBytes {
		t.Errorf("evil holds %+v", h)
	}
	if _, err := os.Lstat(src.File + ".1"); err != nil {
		t.Errorf("it takes nothing, and went for others: %v", err)
	}
	if h := y.held[s.src.File]; h == nil || len(h.old) != 1 {
		t.Errorf("web holds %+v", h)
	}
}

func TestMoveFolder(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	var fs unix.Statfs_t
	if must(t, unix.Statfs(dir, &fs)); fs.Type == unix.TMPFS_MAGIC {
		t.Skip("there is no disk here")
	}
	run, disk, outside := filepath.Join(dir, "run/onboot"), filepath.Join(dir, "disk/onboot"), filepath.Join(dir, "outside")
	must(t, errors.Join(os.MkdirAll(run, 0o755), os.MkdirAll(filepath.Dir(disk), 0o755), os.WriteFile(outside, []byte("theirs\n"), 0o644)))
	links := beneath.Links{run: disk}
	y := machine(t, dir, 1<<30)
	y.cfg.Links = links
	for i, o := range obstacles {
		name := fmt.Sprintf("%d.log", i)
		must(t, os.WriteFile(filepath.Join(run, name), []byte(name+"\n"), 0o644))
		must(t, os.MkdirAll(disk, 0o755))
		must(t, o.make(filepath.Join(disk, name), outside))
		if o.name != "hard link" {
			must(t, o.make(filepath.Join(run, "evil."+name), outside))
		}
		if o.name == "hard link" {
			if moved, err := y.MoveFolder(run, disk); !moved || err == nil || !strings.Contains(err.Error(), run+".refused.1 now") {
				t.Fatalf("moved %v, %v", moved, err)
			}
			for i := range i + 1 {
				await(t, filepath.Join(disk, fmt.Sprintf("%d.log", i)), fmt.Sprintf("%d.log\n", i))
			}
			break
		}
	}
	untouched(t, outside)
	if to, err := os.Readlink(run); err != nil || to != disk {
		t.Errorf("%s leads to %s, %v", run, to, err)
	}
	if data, err := os.ReadFile(filepath.Join(disk, "evil.0.log")); err == nil {
		t.Errorf("what a link leads to was copied: %q", data)
	}
	if moved, err := y.MoveFolder(run, disk); !moved || err != nil {
		t.Errorf("again: %v, %v", moved, err)
	}
	// A link of somebody else's in its place.
	must(t, errors.Join(os.Remove(run), os.Symlink(dir, run)))
	if moved, err := y.MoveFolder(run, disk); !moved || err == nil {
		t.Errorf("with a link elsewhere: %v, %v", moved, err)
	}
	if to, err := os.Readlink(run); err != nil || to != disk {
		t.Errorf("%s leads to %s, %v", run, to, err)
	}
	untouched(t, outside)
}

// What one container does to its file under another's name, and how often, is reported now
// and then only.
func TestObstaclesAgainAndAgain(t *testing.T) {
	s, w, said, outside := guarded(t, t.TempDir())
	for i := range 30 {
		rest(s)
		_ = os.Remove(s.src.File)
		must(t, os.Symlink(outside, s.src.File))
		fmt.Fprintln(w, i)
		s.export.flush(time.Minute)
		await(t, s.src.File, fmt.Sprintf("%d\n", i))
		must(t, os.Remove(s.src.File+".refused.1"))
	}
	untouched(t, outside)
	if all := said.now(); len(all) != 1 {
		t.Errorf("said %q", all)
	}
}
