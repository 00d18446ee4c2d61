package task

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"keelson/runc-shim/oci"
	"keelson/runc-shim/stdio"
)

func TestStatesOfAProcess(t *testing.T) {
	all := []state{added, created, running, stopped, deleted}
	allowed := map[[2]state]bool{
		{added, created}: true, {added, running}: true, {added, stopped}: true, {added, deleted}: true,
		{created, running}: true, {created, stopped}: true,
		{running, stopped}: true,
		{stopped, deleted}: true,
	}
	for _, from := range all {
		for _, to := range all {
			p := newProcess("x", stdio.Config{})
			p.state = from
			err := p.to(to)
			if allowed[[2]state{from, to}] {
				if err != nil || p.is() != to {
					t.Errorf("%s to %s: %v, now %s", from, to, err, p.is())
				}
			} else if !errors.Is(err, errdefs.ErrFailedPrecondition) || p.is() != from {
				t.Errorf("%s to %s: %v, now %s", from, to, err, p.is())
			}
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestInitIsReportedAfterItsExecs(t *testing.T) {
	c := &container{settled: make(chan struct{})}
	for range 2 {
		if err := c.beginExec(); err != nil {
			t.Fatal(err)
		}
	}
	c.endExec()
	done := c.initEnded()
	if closed(done) {
		t.Error("the init's end is told while an exec lives")
	}
	if err := c.beginExec(); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("an exec began after the init's end: %v", err)
	}
	c.endExec()
	if !closed(done) {
		t.Error("the init's end is never told")
	}
	if !closed((&container{settled: make(chan struct{})}).initEnded()) {
		t.Error("the end of an init without execs is not told")
	}
}

func TestExitFile(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	if _, _, _, err := ReadExit(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := writeExit(dir, "web", 12, 137, at); err != nil {
		t.Fatal(err)
	}
	if pid, status, got, err := ReadExit(dir); err != nil || pid != 12 || status != 137 || !got.Equal(at) {
		t.Errorf("%d %d %v %v", pid, status, got, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v %v", entries, err)
	}
	for text, ok := range map[string]bool{
		`{"Timestamp":"2026-01-02T03:04:05Z","Pid":12,"Status":3}`: true, // a stock shim's
		`{}`:                           false,
		`{"pid":12}`:                   false,
		`{"pid":"x"}`:                  false,
		``:                             false,
		`{"exited_at":"2026-01-02T03:`: false,
	} {
		if err := os.WriteFile(filepath.Join(dir, ExitFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		pid, status, _, err := ReadExit(dir)
		if ok != (err == nil) || ok && (pid != 12 || status != 3) {
			t.Errorf("%s: %d %d %v", text, pid, status, err)
		}
	}
}

func TestTaskOptions(t *testing.T) {
	if o, err := taskOptions(nil); err != nil || o == nil {
		t.Errorf("none: %v %v", o, err)
	}
	for _, url := range []string{"containerd.runc.v1.Options", "types.googleapis.com/containerd.runc.v1.Options"} {
		any, err := anypb.New(&options.Options{ShimCgroup: "/shim"})
		if err != nil {
			t.Fatal(err)
		}
		any.TypeUrl = url
		if o, err := taskOptions(any); err != nil || o.ShimCgroup != "/shim" {
			t.Errorf("%s: %v %v", url, o, err)
		}
	}
	if _, err := taskOptions(&anypb.Any{TypeUrl: "other", Value: []byte{1}}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("other options: %v", err)
	}
}

// A task that asks for a runtime binary is told how to have one.
func TestOptionsThatThisShimCannotFollow(t *testing.T) {
	for _, c := range []struct {
		o    *options.Options
		want string
	}{
		{&options.Options{BinaryName: "crun"}, `BinaryName "crun": this shim runs no other runtime; bring the stock containerd-shim-runc-v2`},
		{&options.Options{SystemdCgroup: true}, "no systemd"},
	} {
		if err := CheckOptions(c.o); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.o, err)
		}
	}
	if err := CheckOptions(&options.Options{Root: "/run/x", ShimCgroup: "/shim"}); err != nil {
		t.Error(err)
	}
}

// neverStarted is a container's engine without a process.
func neverStarted(t *testing.T, id string) *engine {
	t.Helper()
	var e *engine
	dir := t.TempDir()
	err := oci.In(dir, func() (err error) {
		e, err = newEngine(oci.Options{Root: dir, ID: id, Bundle: dir}, &specs.Spec{Root: &specs.Root{Path: "/"}, Linux: &specs.Linux{}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

type unheard struct{}

func (unheard) Publish(string, proto.Message) {}

// Whoever has read of an exit may delete the task at once, though its end is told a moment later.
func TestDeleteRightAfterTheRecordOfTheExit(t *testing.T) {
	s := New("test", unheard{}, nil)
	defer s.Close()
	c := &container{id: "web", bundle: t.TempDir(), engine: neverStarted(t, "web"), init: newProcess("", stdio.Config{}), settled: make(chan struct{})}
	c.init.state = running
	s.put("web", c)
	if err := s.deleteContainer(t.Context(), c); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a container that runs was deleted: %v", err)
	}
	c.endsNow()
	deleted := make(chan error, 1)
	go func() { deleted <- s.deleteContainer(t.Context(), c) }()
	if err := c.init.ended(7, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := <-deleted; err != nil || s.Len() != 0 {
		t.Errorf("delete: %v, %d containers are left", err, s.Len())
	}
	// Its caller's time bounds it.
	c = &container{id: "late", init: newProcess("", stdio.Config{}), settled: make(chan struct{})}
	c.init.state = running
	c.endsNow()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.deleteContainer(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("delete of what does not end: %v", err)
	}
}
