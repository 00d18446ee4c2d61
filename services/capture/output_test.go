package capture

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A restarted supervisor that finds a task ended, and its pipes with nobody to hold them, says that their last bytes
// may be gone; in no other case.
func TestUnheldPipesAreSaid(t *testing.T) {
	for _, c := range []struct {
		name            string
		made, held, new bool // the pipes were there, a shim has them, a new task was started
		said            bool
	}{
		{name: "the first start"},
		{name: "the shim lives", made: true, held: true},
		{name: "the shim is gone", made: true, said: true},
		{name: "another task was started", made: true, new: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			var said []string
			config := OutputConfig{Source: "web", Pipes: filepath.Join(dir, "io"), Base: filepath.Join(dir, "log", "web"),
				Warn: func(format string, a ...any) { said = append(said, fmt.Sprintf(format, a...)) }}
			y := machine(t, dir, 1<<30)
			if c.made {
				before, err := y.OpenOutput(config)
				if err != nil {
					t.Fatal(err)
				}
				if c.held {
					stdout, stderr := before.Paths()
					for _, path := range []string{stdout, stderr} {
						f, err := os.OpenFile(path, os.O_RDWR, 0) // as the shim has it
						if err != nil {
							t.Fatal(err)
						}
						defer f.Close()
					}
				}
				before.Close(true)
			}
			o, err := y.OpenOutput(config)
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close(true)
			if c.new {
				o.Paths()
			}
			o.Drain()
			o.Drain() // once is enough
			if want := map[bool]int{true: 1}[c.said]; len(said) != want {
				t.Errorf("said %q", said)
			}
		})
	}
}

// None of those that are opened together is read before it is known what each of them needs; where one cannot be, the
// others are not open either.
func TestThoseOpenedTogetherAreReadTogether(t *testing.T) {
	const many = 64
	dir := t.TempDir()
	y := machine(t, dir, 1<<30)
	l := newLines()
	var early atomic.Int32
	var srcs []Source
	for i := range many {
		src := source(dir)
		src.Stream = fmt.Sprint(i)
		src.Pipe, src.File = filepath.Join(dir, src.Stream), filepath.Join(dir, src.Stream+".log")
		src.Warn = t.Errorf
		src.OnLine = func(line string) {
			if len(y.open()) < many {
				early.Add(1)
			}
			l.add(line)
		}
		if err := unix.Mkfifo(src.Pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(src.Pipe, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprintln(f, "left there")
		srcs = append(srcs, src)
	}
	bad := source(dir)
	bad.Name, bad.Pipe = "bad", filepath.Join(srcs[0].Pipe, "below a pipe")
	if all, err := y.OpenAll(append(srcs[:2:2], bad)...); len(all) > 0 || !errors.Is(err, unix.ENOTDIR) || len(y.open()) > 0 {
		t.Errorf("one cannot be opened: %v, %v; %d are open", all, err, len(y.open()))
	}
	l.wait(t, 2) // they were, for a moment
	early.Store(0)
	all, err := y.OpenAll(srcs...)
	if err != nil {
		t.Fatal(err)
	}
	l.wait(t, many-2)
	for _, s := range all {
		s.Close(true)
	}
	if n := early.Load(); n > 0 {
		t.Errorf("%d were read before all were open", n)
	}
}
