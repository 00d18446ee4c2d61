package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func optionsAny(t *testing.T, o *options.Options) *anypb.Any {
	t.Helper()
	data, err := proto.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: data}
}

func marshal(t *testing.T, m proto.Message) *bytes.Reader {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(data)
}

func TestReadRequest(t *testing.T) {
	f := flags{namespace: "ns", id: "one", address: "/flag.sock"}
	dir := "/run/x/s"
	r, err := readRequest(f, marshal(t, &bootapi.BootstrapParams{
		InstanceID: "one", Namespace: "ns", ContainerdGrpcAddress: "/c.sock", ContainerdTtrpcAddress: "/t.sock", SocketDir: &dir,
		LogLevel:   bootapi.LogLevel_LOG_LEVEL_DEBUG,
		Extensions: []*bootapi.Extension{{Value: optionsAny(t, &options.Options{ShimCgroup: "/keelson/shim"})}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	if r.legacy || r.address != "/c.sock" || r.ttrpc != "/t.sock" || r.socketDir != dir || !r.debug || r.options.ShimCgroup != "/keelson/shim" {
		t.Errorf("%+v", r)
	}

	t.Setenv("TTRPC_ADDRESS", "/env.ttrpc")
	r, err = readRequest(f, marshal(t, optionsAny(t, &options.Options{ShimCgroup: "/old"})))
	if err != nil {
		t.Fatal(err)
	}
	if !r.legacy || r.address != "/flag.sock" || r.ttrpc != "/env.ttrpc" || r.socketDir != defaultSocketDir || r.options.ShimCgroup != "/old" {
		t.Errorf("old containerd: %+v", r)
	}
	if r, err = readRequest(f, strings.NewReader("")); err != nil || !r.legacy {
		t.Errorf("no input: %+v %v", r, err)
	}
}

func TestGroupOf(t *testing.T) {
	for config, want := range map[string]string{
		`{}`: "id",
		`{"annotations":{"io.containerd.runc.v2.group":"g"}}`:                                      "g",
		`{"annotations":{"io.kubernetes.cri.sandbox-id":"k"}}`:                                     "k",
		`{"annotations":{"io.kubernetes.cri.sandbox-id":"k","io.containerd.runc.v2.group":"g"}}`:   "g",
		`{"annotations":{"other":"x"},"process":{"args":["io.containerd.runc.v2.group"]},"x":[1]}`: "id",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := groupOf(dir, "id"); err != nil || got != want {
			t.Errorf("%s: group %q %v, want %q", config, got, err, want)
		}
	}
	if _, err := groupOf(t.TempDir(), "id"); err == nil {
		t.Error("a bundle without config.json has a group")
	}
}

// The stock shim computes the same address, so that a shim of either kind is
// found by the other's `start`.
func TestSocketAddress(t *testing.T) {
	r := &request{namespace: "services.linuxkit", address: "/run/containerd/containerd.sock", socketDir: "/run/containerd/s"}
	const want = "unix:///run/containerd/s/"
	got := socketAddress(r, "keelson")
	if !strings.HasPrefix(got, want) || len(got) != len(want)+64 {
		t.Errorf("address %s", got)
	}
	if got == socketAddress(r, "other") {
		t.Error("two groups have one socket")
	}
}

func TestDaemonEnv(t *testing.T) {
	r := &request{ttrpc: "/t.sock"}
	got := strings.Join(daemonEnv([]string{"PATH=/bin", "GOMAXPROCS=4", "TTRPC_ADDRESS=/other"}, r), " ")
	if got != "PATH=/bin GOMAXPROCS=2 TTRPC_ADDRESS=/t.sock" {
		t.Errorf("environment %s", got)
	}
}

func TestAnExpiredLifetimeEndsOnlyWithoutAStartUnderWay(t *testing.T) {
	dir := t.TempDir()
	newLife := func() *lifetime {
		l := newLifetime(filepath.Join(dir, "socket"), func() {})
		t.Cleanup(l.close)
		return l
	}
	over := func(l *lifetime) bool {
		select {
		case <-l.over:
			return true
		default:
			return false
		}
	}
	l := newLife()
	l.changed(1)
	l.expire() // a timer that fired as the container came
	if over(l) {
		t.Error("a shim with a container ended")
	}
	l.changed(0)
	unlock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.expire()
	if over(l) {
		t.Error("the shim ended while a start was under way")
	}
	unlock()
	l.expire()
	if !over(l) {
		t.Fatal("the shim does not end")
	}
	// It holds the lock until its socket is gone.
	if _, ok := tryLockDir(dir); ok {
		t.Error("a start can begin while the shim ends")
	}
	l.unlock()
	unlock, ok := tryLockDir(dir)
	if !ok {
		t.Fatal("the lock was not given back")
	}
	unlock()
	l.changed(1) // too late, and no panic
}

func TestListenReplacesADeadSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if alive(path) {
		t.Error("a dead shim is alive")
	}
	l, err = listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", st, err)
	}
}

func TestParseFlags(t *testing.T) {
	f, err := parse([]string{"shim", "-namespace", "n", "-address", "a", "-publish-binary", "p", "-id", "i", "-bundle", "b", "delete"})
	if err != nil || f.namespace != "n" || f.id != "i" || f.bundle != "b" || f.action != "delete" {
		t.Errorf("%+v %v", f, err)
	}
	for _, args := range [][]string{{"shim", "-nosuch"}, {"shim", "start", "again"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
	if err := run(flags{}); err == nil || !strings.Contains(err.Error(), "namespace") {
		t.Errorf("no namespace: %v", err)
	}
	if err := run(flags{namespace: "n", action: "frob"}); err == nil || !strings.Contains(err.Error(), "frob") {
		t.Errorf("unknown action: %v", err)
	}
}
