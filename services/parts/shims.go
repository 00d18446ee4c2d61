package parts

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"

	"keelson/internal/pidfd"
)

// Shims finds the shims of containerd's running tasks and has a set watch them.
type Shims struct {
	Set *Set
	// Tasks is where containerd has its tasks' directories, NAMESPACE/ID.
	Tasks string
	// Processes are those that may be shims; nil, or none, is every process.
	Processes func() []int

	mu    sync.Mutex     // one scan at a time
	known map[string]int // their processes by the inode of the socket; guarded by mu
}

// bootstrap is what containerd notes of a task's shim.
type bootstrap struct {
	Version int    `json:"version"`
	Address string `json:"address"`
}

// Scan has shims watched that have come since the last one. A shim whose process cannot
// be found is left to the next scan.
func (s *Shims) Scan(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	notes, _ := filepath.Glob(filepath.Join(s.Tasks, "*", "*", "bootstrap.json"))
	members := map[string][]string{} // by the path of the socket
	versions := map[string]int{}
	for _, path := range notes {
		var b bootstrap
		data, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(data, &b) != nil {
			continue // the task has just been deleted
		}
		_, socket, ok := strings.Cut(b.Address, "unix://")
		if !ok {
			continue // of another kind of machine
		}
		task := filepath.Dir(path)
		members[socket] = append(members[socket], filepath.Base(filepath.Dir(task))+"/"+filepath.Base(task))
		versions[socket] = b.Version
	}
	listening, known := listeners(members), map[string]int{}
	for socket, names := range members {
		slices.Sort(names)
		pid, inode := s.shim(listening[socket])
		if pid != 0 && (s.Set.Has(pid, names) || s.watch(ctx, pid, socket, versions[socket], names)) {
			known[inode] = pid
		}
	}
	s.known = known
}

// watch has a shim watched, unless it has just exited.
func (s *Shims) watch(ctx context.Context, pid int, socket string, version int, members []string) bool {
	c := &shimClient{socket: socket, version: version, member: members[0]}
	return s.Set.WatchProcess(ctx, Part{Name: "shim", PID: pid, Members: members, Limits: Shim, Ask: c.ask}, c.close)
}

// listeners returns the inodes of the sockets that somebody listens on, by their paths, if
// those are wanted. A path may have several: the kernel tells by which one a socket was made,
// and containers have such paths in their own roots. They may have many sockets too.
func listeners(wanted map[string][]string) map[string][]string {
	table, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil
	}
	defer table.Close()
	const acceptsConnections = 0x10000 // __SO_ACCEPTCON
	found := map[string][]string{}
	for lines := bufio.NewScanner(table); lines.Scan(); {
		f := strings.Fields(lines.Text()) // Num RefCount Protocol Flags Type St Inode Path
		if len(f) < 8 || wanted[f[7]] == nil {
			continue
		}
		if flags, err := strconv.ParseUint(f[3], 16, 64); err == nil && flags&acceptsConnections != 0 {
			found[f[7]] = append(found[f[7]], f[6])
		}
	}
	return found
}

// shim returns the process that has one of these sockets open, 0 if none is found, and
// which one that is.
func (s *Shims) shim(inodes []string) (pid int, inode string) {
	for _, inode := range inodes {
		if pid := s.known[inode]; pid != 0 {
			return pid, inode
		}
	}
	for _, inode := range inodes {
		if pid := s.holder(inode); pid != 0 {
			return pid, inode
		}
	}
	return 0, ""
}

// holder returns the oldest process that has a socket open, 0 if there is none: a child
// that it has just made has it too for a moment.
func (s *Shims) holder(inode string) (oldest int) {
	var pids []int
	if s.Processes != nil {
		pids = s.Processes()
	}
	if len(pids) == 0 {
		names, _ := osProc{}.ReadDir("/proc")
		for _, name := range names {
			if pid, err := strconv.Atoi(name); err == nil && pid > 1 && pid != os.Getpid() {
				pids = append(pids, pid)
			}
		}
	}
	first := uint64(0)
	for _, pid := range pids {
		if !has(pid, "socket:["+inode+"]") {
			continue
		}
		text, err := pidfd.Stat(pid, 22) // its start
		if err != nil {
			continue
		}
		if start, err := strconv.ParseUint(text, 10, 64); err == nil && (oldest == 0 || start < first) {
			oldest, first = pid, start
		}
	}
	return oldest
}

// has reports whether a process has a file open, by what its descriptor leads to.
func has(pid int, file string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := osProc{}.ReadDir(dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(names, func(fd string) bool {
		to, err := os.Readlink(filepath.Join(dir, fd))
		return err == nil && to == file
	})
}

// shimClient asks one shim, over a connection that stays: a new one would wake what a shim
// does after calls.
type shimClient struct {
	socket  string
	version int
	member  string // NAMESPACE/ID of a container that it has had

	mu     sync.Mutex
	client *ttrpc.Client // guarded by mu; nil while there is no connection
	closed bool          // guarded by mu
}

// ask asks which process the shim is, as containerd does. An error that the shim returns
// is an answer.
func (c *shimClient) ask(ctx context.Context) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	namespace, id, _ := strings.Cut(c.member, "/")
	err = client.Call(namespaces.WithNamespace(ctx, namespace), fmt.Sprintf("containerd.task.v%d.Task", c.version), "Connect",
		&taskapi.ConnectRequest{ID: id}, &taskapi.ConnectResponse{})
	if _, ok := status.FromError(err); ok {
		return nil
	}
	if errors.Is(err, ttrpc.ErrClosed) {
		c.drop(client)
	}
	return err
}

func (c *shimClient) connect(ctx context.Context) (*ttrpc.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, net.ErrClosed
	}
	if c.client != nil {
		return c.client, nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, err
	}
	c.client = ttrpc.NewClient(conn)
	return c.client, nil
}

// drop forgets a connection that has ended.
func (c *shimClient) drop(client *ttrpc.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == client {
		_ = c.client.Close()
		c.client = nil
	}
}

func (c *shimClient) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.client != nil {
		_ = c.client.Close()
		c.client = nil
	}
}
