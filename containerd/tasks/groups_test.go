package tasks

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// living is a task manager of which only Get works.
type living struct {
	runtime.PlatformRuntime
	tasks map[string]served
}

func (l living) Get(_ context.Context, id string) (runtime.Task, error) {
	if t, ok := l.tasks[id]; ok {
		return t, nil
	}
	return nil, errdefs.ErrNotFound
}

// served is a task of which only the shim's address is known.
type served struct {
	runtime.Task
	address string
}

func (s served) Endpoint() (string, int) { return s.address, 3 }

func TestGroups(t *testing.T) {
	ctx := context.Background()
	web, db := groupKey{"ns", "runc", "web"}, groupKey{"ns", "runc", "db"}
	old, young := served{address: "ttrpc+unix:///old"}, served{address: "ttrpc+unix:///young"}
	manager := living{tasks: map[string]served{"a": old, "b": old, "c": young}}
	var g groups
	check := func(what string, key groupKey, want string) {
		t.Helper()
		if address, _, ok := g.find(ctx, key, manager); address != want || ok != (want != "") {
			t.Errorf("%s: found %q (%v), want %q", what, address, ok, want)
		}
	}
	check("nothing known", web, "")
	g.add(web, "a", old)
	g.add(web, "b", old)
	check("two members", web, old.address)
	check("another group", db, "")
	check("another namespace", groupKey{"other", "runc", "web"}, "")
	check("another runtime", groupKey{"ns", "kata", "web"}, "")

	delete(manager.tasks, "a")
	check("the first is gone", web, old.address)
	manager.tasks["b"] = young
	check("the other one has a new shim", web, "")
	g.add(web, "c", young)
	check("the new shim is known", web, young.address)
	delete(manager.tasks, "c")
	check("everybody is gone, and the shim does not answer", web, "")
	if len(g.known) != 0 {
		t.Errorf("still known: %v", g.known)
	}
}

// A shim without containers is known as long as it answers and nobody holds the lock that
// it needs to end.
func TestAGroupOutlivesItsLastMember(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			conn.Close()
		}
	}()
	key := groupKey{"ns", "runc", "web"}
	shim := served{address: "ttrpc+unix://" + filepath.Join(dir, "s")}
	var g groups
	g.add(key, "a", shim)
	find := func() bool {
		_, _, ok := g.find(ctx, key, living{})
		return ok
	}
	for range 2 {
		if !find() {
			t.Error("a shim that answers is not known any more")
		}
	}
	lock, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if find() {
		t.Error("a shim that may be about to end is relied upon")
	}
}

func TestKeyOf(t *testing.T) {
	ctx := namespaces.WithNamespace(context.Background(), "ns")
	for name, c := range map[string]struct {
		spec, sandbox string
		want          groupKey
	}{
		"none":          {spec: `{"annotations":{"other":"x"}}`},
		"group":         {spec: `{"annotations":{"io.containerd.runc.v2.group":"web"}}`, want: groupKey{"ns", "runc", "web"}},
		"pod":           {spec: `{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}`, want: groupKey{"ns", "runc", "pod"}},
		"both":          {spec: `{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"web"}}`, want: groupKey{"ns", "runc", "web"}},
		"sandboxed":     {spec: `{"annotations":{"io.containerd.runc.v2.group":"web"}}`, sandbox: "theirs"},
		"no annotation": {spec: `{}`},
		"malformed":     {spec: `{"annotations":5}`},
	} {
		key, ok := keyOf(ctx, containers.Container{SandboxID: c.sandbox, Spec: &anypb.Any{Value: []byte(c.spec)}}, "runc")
		if key != c.want && ok || ok != (c.want != groupKey{}) {
			t.Errorf("%s: %v, %v; want %v", name, key, ok, c.want)
		}
	}
	if _, ok := keyOf(ctx, containers.Container{}, "runc"); ok {
		t.Error("a container without a spec has a group")
	}
}

func TestAccepts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if !accepts(t.Context(), "ttrpc+unix://"+path) {
		t.Error("a shim that listens does not accept")
	}
	l.Close()
	for _, gone := range []string{"ttrpc+unix://" + path, "", "grpc+vsock://3:4"} {
		if accepts(t.Context(), gone) {
			t.Errorf("%q accepts", gone)
		}
	}
}

func TestSandboxes(t *testing.T) {
	if s, err := (Sandboxes{}).Get(t.Context(), groupPrefix+"web"); err != nil || s.ID != "group/web" {
		t.Errorf("a group: %v, %v", s, err)
	}
	// A container of the same name is no sandbox: its shim may be tidied away.
	if _, err := (Sandboxes{}).Get(t.Context(), "web"); !errdefs.IsNotFound(err) {
		t.Errorf("a container: %v, want not found", err)
	}
}
