package daemon

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"keelson/internal/hugepages"
	"keelson/runc-shim/seal"
	"keelson/runc-shim/task"
)

// apiVersion is the version of the task API that is served.
const apiVersion = 3

// groupKeys are the annotations that name a container's group, as with the
// stock shim. The first that is there counts.
var groupKeys = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// defaultSocketDir is where shims' sockets are if containerd does not say.
const defaultSocketDir = "/run/containerd/s"

// maxBootstrap bounds what is read from containerd, in bytes.
const maxBootstrap = 10 << 20

// A request is what containerd wants of `start`.
type request struct {
	namespace string
	id        string
	address   string // of containerd's gRPC socket
	ttrpc     string // of containerd's ttrpc socket
	socketDir string
	debug     bool
	options   *options.Options
	legacy    bool // a containerd before 2.3, which reads JSON
}

// readRequest reads the bootstrap parameters. A containerd before 2.3 sends
// the runtime options alone, or nothing, and says the rest in flags.
func readRequest(f flags, in io.Reader) (*request, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxBootstrap))
	if err != nil {
		return nil, fmt.Errorf("read bootstrap parameters: %w", err)
	}
	r := &request{
		namespace: f.namespace, id: f.id, address: f.address,
		ttrpc:     os.Getenv("TTRPC_ADDRESS"),
		socketDir: defaultSocketDir, debug: f.debug,
		options: &options.Options{},
	}
	var p bootapi.BootstrapParams
	if len(data) > 0 && proto.Unmarshal(data, &p) == nil && p.InstanceID == f.id && p.Namespace == f.namespace {
		if p.ContainerdGrpcAddress != "" {
			r.address = p.ContainerdGrpcAddress
		}
		if p.ContainerdTtrpcAddress != "" {
			r.ttrpc = p.ContainerdTtrpcAddress
		}
		if d := p.GetSocketDir(); d != "" {
			r.socketDir = d
		}
		r.debug = r.debug || p.LogLevel <= bootapi.LogLevel_LOG_LEVEL_DEBUG
		for _, e := range p.Extensions {
			if task.IsOptions(e.GetValue().GetTypeUrl()) {
				if err := proto.Unmarshal(e.Value.Value, r.options); err != nil {
					return nil, fmt.Errorf("read runtime options: %w", err)
				}
			}
		}
		return r, nil
	}
	r.legacy = true
	var any anypb.Any
	if len(data) > 0 && proto.Unmarshal(data, &any) == nil && task.IsOptions(any.TypeUrl) {
		if err := proto.Unmarshal(any.Value, r.options); err != nil {
			return nil, fmt.Errorf("read runtime options: %w", err)
		}
	}
	return r, nil
}

// start answers with the address of the shim that takes the container.
func start(f flags, in io.Reader, out io.Writer) error {
	r, err := readRequest(f, in)
	if err != nil {
		return err
	}
	group, err := groupOf(".", r.id)
	if err != nil {
		return err
	}
	if err := task.CheckOptions(r.options); err != nil {
		return err
	}
	address := socketAddress(r, group)
	if err := ensure(r, address); err != nil {
		return err
	}
	var data []byte
	if r.legacy {
		data, err = json.Marshal(struct {
			Version  int    `json:"version"`
			Address  string `json:"address"`
			Protocol string `json:"protocol"`
		}{apiVersion, address, "ttrpc"})
	} else {
		data, err = proto.Marshal(&bootapi.BootstrapResult{Version: apiVersion, Address: address, Protocol: "ttrpc"})
	}
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	return err
}

// groupOf reads which shim a bundle's container belongs to.
func groupOf(bundle, id string) (string, error) {
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return "", err
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", fmt.Errorf("read config.json: %w", err)
	}
	for _, k := range groupKeys {
		if g, ok := spec.Annotations[k]; ok {
			return g, nil
		}
	}
	return id, nil
}

// socketAddress is where the shim of a group listens. It is computed as the
// stock shim computes it.
func socketAddress(r *request, group string) string {
	d := sha256.Sum256([]byte(filepath.Join(r.address, r.namespace, group)))
	return fmt.Sprintf("unix://%s/%x", r.socketDir, d)
}

func socketPath(address string) string { return strings.TrimPrefix(address, "unix://") }

// ensure makes sure that a shim listens at address.
//
// A lock on the socket's folder keeps it apart from other starts and from the
// end of a shim that has lost its last container: whoever was answered by the
// shim while holding the lock has put off that end.
func ensure(r *request, address string) error {
	unlock, err := lockDir(r.socketDir)
	if err != nil {
		return err
	}
	defer unlock()
	if alive(socketPath(address)) {
		return nil
	}
	return spawn(r, address)
}

// lockDir takes the lock of a folder of sockets, making the folder.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { d.Close() }, nil
}

// aliveTimeout bounds how long a shim may take to say that it is there.
const aliveTimeout = 5 * time.Second

// alive asks the shim at path whether it is there, which puts off its end: the
// shim counts a connection when it accepts it and answers our closing it with
// its own.
func alive(path string) bool {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return false
	}
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(aliveTimeout)) != nil || conn.CloseWrite() != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// spawn starts a shim with a socket at address.
func spawn(r *request, address string) (err error) {
	path := socketPath(address)
	l, err := listen(path)
	if err != nil {
		return fmt.Errorf("shim socket: %w", err)
	}
	// The file stays when this process closes its listener.
	l.SetUnlinkOnClose(false)
	defer l.Close()
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	sock, err := l.File()
	if err != nil {
		return err
	}
	defer sock.Close()

	exe := "/proc/self/exe"
	files := []*os.File{sock}
	if !overlayAvailable() || seal.Hidden() {
		sealed, err := seal.Self()
		if err != nil {
			return fmt.Errorf("seal shim: %w", err)
		}
		defer sealed.Close()
		// The child finds it under the number it has after the start.
		exe = fmt.Sprintf("/proc/self/fd/%d", inheritedProgram)
		files = append(files, sealed)
	}
	args := []string{"-namespace", r.namespace, "-id", r.id, "-address", r.address}
	if r.debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(exe, args...)
	cmd.Args[0] = os.Args[0]
	cmd.ExtraFiles = files
	cmd.Env = daemonEnv(os.Environ(), r)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := hugepages.Without(cmd.Start); err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	defer func() {
		if err != nil {
			_ = cmd.Process.Kill()
		}
	}()
	if cg := r.options.GetShimCgroup(); cg != "" {
		if err := joinCgroup(cg, cmd.Process.Pid); err != nil {
			return err
		}
	}
	if err := protect(cmd.Process.Pid); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// overlayAvailable says whether the kernel has overlayfs. libcontainer then
// keeps containers from the file they are started from with a read-only
// overlay for each, which costs nothing measurable; without it, it would copy
// the program for each, unless the program is a sealed memfd.
func overlayAvailable() bool {
	data, err := os.ReadFile("/proc/filesystems")
	return err == nil && bytes.Contains(data, []byte("\toverlay\n"))
}

// daemonEnv is the shim's environment: that of containerd, and few threads.
func daemonEnv(env []string, r *request) []string {
	out := make([]string, 0, len(env)+2)
	for _, e := range env {
		if strings.HasPrefix(e, "GOMAXPROCS=") || strings.HasPrefix(e, "TTRPC_ADDRESS=") {
			continue
		}
		out = append(out, e)
	}
	return append(out, "GOMAXPROCS=2", "TTRPC_ADDRESS="+r.ttrpc)
}

// listen makes the socket, in place of one whose shim is gone.
func listen(path string) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		l, err = net.ListenUnix("unix", addr)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// protect gives the shim containerd's protection from the OOM killer. The
// stock shim takes one less; but here a shim stands for all its containers,
// and losing it is no better than losing containerd. Its containers do not
// inherit it.
func protect(pid int) error {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", os.Getppid()))
	if err != nil {
		return fmt.Errorf("read oom_score_adj of containerd: %w", err)
	}
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return err
	}
	want := bytes.TrimSpace(data)
	if bytes.Equal(want, bytes.TrimSpace(own)) {
		return nil // inherited
	}
	if _, err := strconv.Atoi(string(want)); err != nil {
		return fmt.Errorf("oom_score_adj of containerd: %w", err)
	}
	err = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), want, 0)
	if errors.Is(err, os.ErrPermission) {
		return nil // without CAP_SYS_RESOURCE it stays as inherited
	}
	return err
}
