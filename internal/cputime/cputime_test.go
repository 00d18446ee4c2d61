package cputime

import (
	"errors"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// files are a /proc on paper.
type files map[string]string

func (f files) ReadFile(name string) ([]byte, error) {
	if text, ok := f[name]; ok {
		return []byte(text), nil
	}
	return nil, os.ErrNotExist
}

func (f files) ReadDir(dir string) (names []string, err error) {
	for name := range f {
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok && !slices.Contains(names, path.Dir(rest)) {
			names = append(names, path.Dir(rest))
		}
	}
	if names == nil {
		return nil, os.ErrNotExist
	}
	return names, nil
}

func stat(state, user, system string) string {
	return "8 (a) R (b) " + state + " 1 8 8 0 -1 4194560 120 0 0 0 " + user + " " + system + " 0 0 20 0 9 0 1234 0\n"
}

func TestOf(t *testing.T) {
	f := files{
		"/proc/8/task/8/stat": stat("S", "100", "23"), "/proc/8/task/8/schedstat": "1000000000 500000000 77\n",
		"/proc/8/task/9/stat": stat("S", "7", "3"), // a kernel without schedstat, or a thread that has just exited
		"/proc/9/task/9/stat": stat("T", "0", "0"), "/proc/9/task/10/stat": stat("t", "0", "0"),
		"/proc/10/task/10/stat": stat("T", "0", "0"), "/proc/10/task/11/stat": stat("R", "0", "0"),
		"/proc/11/task/11/stat": "odd",
	}
	for pid, want := range map[int]Sample{
		8: {Wanted: 1600 * time.Millisecond}, 9: {Stopped: true}, 10: {Runnable: true},
	} {
		if s, err := Of(f, pid); err != nil || s != want {
			t.Errorf("%d: %+v, %v; want %+v", pid, s, err, want)
		}
	}
	for _, pid := range []int{11, 12} {
		if s, err := Of(f, pid); err == nil {
			t.Errorf("%d: %+v", pid, s)
		}
	}
	if _, err := Of(f, 12); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestWorked(t *testing.T) {
	at := func(d time.Duration) Sample { return Sample{Wanted: d} }
	for _, tc := range []struct {
		before, after Sample
		want          bool
	}{
		{at(time.Second), at(time.Second), false},
		{at(time.Second), at(1499 * time.Millisecond), false}, // its answers to signals, the kernel's clean-up
		{at(time.Second), at(1500 * time.Millisecond), true},
		{at(time.Second), at(time.Millisecond), true}, // a thread has exited
		{at(time.Second), Sample{Wanted: time.Second, Runnable: true}, true},
	} {
		if got := Worked(tc.before, tc.after, 5*time.Second); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

type real struct{}

func (real) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }

func (real) ReadDir(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// What this kernel says of a process that is stopped, and of one that works.
func TestOfThisKernel(t *testing.T) {
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	sample := func(when func(s Sample) bool) Sample {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			s, err := Of(real{}, cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			if when(s) {
				return s
			}
			if time.Now().After(deadline) {
				t.Fatalf("%+v", s)
			}
			time.Sleep(time.Millisecond)
		}
	}
	sample(func(s Sample) bool { return s.Runnable && s.Wanted > 0 })
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	before := sample(func(s Sample) bool { return s.Stopped })
	time.Sleep(50 * time.Millisecond)
	if after := sample(func(Sample) bool { return true }); Worked(before, after, 50*time.Millisecond) {
		t.Errorf("one that is stopped works: %+v, %+v", before, after)
	}
}
