package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// groupKeys are the annotations that put a container into a group, which one
// shim serves. The first that is there counts, as in the stock shim.
var groupKeys = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// groupPrefix makes a group's name one that no container and no sandbox of a
// client can have.
const groupPrefix = "group/"

// groups knows the shims that serve several containers.
//
// To find out which shim takes a container, containerd runs the shim's program
// once for each. For a group whose shim lives the answer is known, so the shim
// manager is told it the way a sandbox controller would tell it, and that program
// is not run. What is known is never relied upon: the group must have a living
// task or its shim must answer, and after a failure with a shim that has gone the
// long way is taken.
type groups struct {
	mu    sync.Mutex
	known map[groupKey]*group
}

type groupKey struct{ namespace, runtime, name string }

type group struct {
	address string // as ShimInstance.Endpoint gives it, such as ttrpc+unix:///run/x
	version int
	members map[string]bool // container IDs
}

// keyOf is the group of a container; ok is false where it has none.
func keyOf(ctx context.Context, c containers.Container, runtimeName string) (key groupKey, ok bool) {
	if c.Spec == nil || c.SandboxID != "" {
		return key, false
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(c.Spec.GetValue(), &spec) != nil {
		return key, false // the runtime will say what is wrong with it
	}
	ns, _ := namespaces.Namespace(ctx)
	for _, k := range groupKeys {
		if name := spec.Annotations[k]; name != "" {
			return groupKey{ns, runtimeName, name}, true
		}
	}
	return key, false
}

// find returns the shim of a group, if it lives.
func (g *groups) find(ctx context.Context, key groupKey, manager runtime.PlatformRuntime) (address string, version int, ok bool) {
	address, version, populated := g.look(ctx, key, manager)
	if address == "" || !populated && !stays(ctx, address) {
		g.forget(key, address)
		return "", 0, false
	}
	return address, version, true
}

// look returns what is known of a group's shim, and whether it has a living task.
func (g *groups) look(ctx context.Context, key groupKey, manager runtime.PlatformRuntime) (address string, version int, populated bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	known := g.known[key]
	if known == nil {
		return "", 0, false
	}
	for id := range known.members {
		// The manager forgets a task when it is deleted or its shim dies.
		if t, err := manager.Get(ctx, id); err == nil {
			if a, v := endpoint(t); a == known.address && v == known.version {
				return a, v, true
			}
		}
		delete(known.members, id)
	}
	return known.address, known.version, false
}

// forget drops what is known of a group, unless it has another shim by now.
func (g *groups) forget(key groupKey, address string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.known[key]; known != nil && known.address == address {
		delete(g.known, key)
	}
}

// add notes which shim has taken a container.
func (g *groups) add(key groupKey, id string, t runtime.Task) {
	address, version := endpoint(t)
	if address == "" {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	known := g.known[key]
	if known == nil || known.address != address || known.version != version {
		known = &group{address: address, version: version, members: map[string]bool{}}
		if g.known == nil {
			g.known = map[groupKey]*group{}
		}
		g.known[key] = known
	}
	known.members[id] = true
}

// endpoint is where a task's shim listens.
func endpoint(t runtime.Task) (address string, version int) {
	if e, ok := t.(interface{ Endpoint() (string, int) }); ok {
		return e.Endpoint()
	}
	return "", 0
}

// socketPath is the path of a shim's Unix socket.
func socketPath(address string) (path string, ok bool) {
	_, path, ok = strings.Cut(address, "+unix://")
	return path, ok
}

// accepts is whether a shim still listens.
func accepts(ctx context.Context, address string) bool {
	path, ok := socketPath(address)
	if !ok {
		return false
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// answerBound is how long a shim without containers may take to answer.
const answerBound = 5 * time.Second

// stays is whether a shim without containers lives and goes on living for a while, as
// our shim promises to a caller that holds the lock of its socket's directory: it ends only with that lock, and counts the time from the last connection.
// With the lock taken, the shim is about to end, or another is being started, and the
// long way waits for that. The stock shim, which ends with its last container, does not
// answer.
func stays(ctx context.Context, address string) bool {
	path, ok := socketPath(address)
	if !ok {
		return false
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return false
	}
	defer dir.Close()
	if unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerBound)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if conn.SetDeadline(deadline) != nil || conn.(*net.UnixConn).CloseWrite() != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1)) // the shim closes its side of what we have closed
	return errors.Is(err, io.EOF)
}

// Sandboxes is the sandbox store for the shim manager: it has the groups, and
// nothing else.
type Sandboxes struct{ sandbox.Store }

// Get finds the sandbox that stands for a group.
func (Sandboxes) Get(_ context.Context, id string) (sandbox.Sandbox, error) {
	if strings.HasPrefix(id, groupPrefix) {
		return sandbox.Sandbox{ID: id}, nil
	}
	return sandbox.Sandbox{}, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
}
