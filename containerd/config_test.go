package containerd

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	must(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func TestLoad(t *testing.T) {
	// What LinuxKit's containerd image used to carry, and a table for each version.
	path := writeConfig(t, `state = "/run/containerd"
root = "/var/lib/containerd"
oom_score = -500
subreaper = false
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/a.sock"
  uid = 7
[debug]
  address = "/run/containerd/debug.sock"
  level = "info"
[metrics]
  address = ":13337"
[timeouts]
  "io.containerd.timeout.shim.load" = "7s"
  "io.containerd.timeout.nothing" = "7s"
[plugins."io.containerd.shim.v1.manager"]
  env = ["A=B"]
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
`)
	c, warnings, err := Load(path)
	must(t, err)
	if c.Root != "/var/lib/containerd" || c.State != "/run/containerd" || c.OOMScore != -500 || c.Debug.Level != "info" {
		t.Errorf("got %+v", c)
	}
	if s := c.grpc(); s.Address != "/run/a.sock" || s.UID != 7 {
		t.Errorf("grpc: %+v", s)
	}
	if s := c.ttrpc(); s.Address != "/run/a.sock.ttrpc" || s.UID != 7 {
		t.Errorf("ttrpc: %+v", s)
	}
	if d := c.timeouts["io.containerd.timeout.shim.load"]; d != 7*time.Second {
		t.Errorf("timeout %s", d)
	}
	if d := c.timeouts["io.containerd.timeout.shim.cleanup"]; d != patience["io.containerd.timeout.shim.cleanup"] || d == 0 {
		t.Errorf("the timeout that the file does not give: %s", d)
	}
	if !slices.Equal(c.Plugins.Shim.Env, []string{"A=B"}) {
		t.Errorf("shim: %+v", c.Plugins.Shim)
	}
	for _, want := range []string{
		path + ":4: subreaper has no effect",
		path + ":10: debug.address has no effect",
		path + ":12: metrics has no effect",
		path + `: timeouts."io.containerd.timeout.nothing" has no effect`,
		path + `:19: plugins."io.containerd.grpc.v1.cri"`,
	} {
		if !slices.ContainsFunc(warnings, func(w string) bool { return strings.HasPrefix(w, want) }) {
			t.Errorf("no warning %q in\n%s", want, strings.Join(warnings, "\n"))
		}
	}
	if len(warnings) != 5 {
		t.Errorf("%d warnings, want 5:\n%s", len(warnings), strings.Join(warnings, "\n"))
	}
}

func TestLoadVersion4(t *testing.T) {
	c, warnings, err := Load(writeConfig(t, `version = 4
[plugins.'io.containerd.server.v1.grpc']
  address = '/run/4.sock'
  gid = 9
  max_recv_message_size = 1000
[plugins.'io.containerd.server.v1.ttrpc']
  address = '/run/4.ttrpc'
`))
	must(t, err)
	if len(warnings) != 0 {
		t.Errorf("warnings %q", warnings)
	}
	if s := c.grpc(); s.Address != "/run/4.sock" || s.GID != 9 || s.MaxRecvMsgSize != 1000 {
		t.Errorf("grpc: %+v", s)
	}
	if s := c.ttrpc(); s.Address != "/run/4.ttrpc" || s.GID != 9 {
		t.Errorf("ttrpc: %+v", s)
	}
}

func TestLoadErrors(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"not TOML":         {"root = \"/a\"\nstate = \n", ":2:9: "},
		"wrong type":       {"version = 3\nroot = 5\n", ":2:8: root: is of type integer, want string"},
		"wrong type, deep": {"[grpc]\n\nuid = \"x\"\n", ":3:7: grpc.uid: is of type string, want integer"},
		"not a list":       {"disabled_plugins = \"x\"\n", ":1:20: disabled_plugins: is of type string, want list of strings"},
		"not a table":      {"plugins = [1]\n", ":1:11: plugins: is of type array, want table"},
		"in a map":         {"[timeouts]\na = 5\n", ":2:5: timeouts.a: is of type integer, want string"},
		"not closed":       {"imports = [1\n", ":1:13: array is incomplete"},
		"too new":          {"version = 5\n", ": version: is 5, want at most 4"},
		"bad duration":     {"[timeouts]\n\"io.containerd.timeout.shim.load\" = \"soon\"\n", `timeouts."io.containerd.timeout.shim.load": is "soon", want a duration`},
		"plugin not here":  {"required_plugins = [\"io.containerd.grpc.v1.cri\"]\n", `has no "io.containerd.grpc.v1.cri"; put the stock binary in its place`},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeConfig(t, c.text)
			_, _, err := Load(path)
			if err == nil || !strings.HasPrefix(err.Error(), path+":") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s ... %s", err, path, c.want)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	path := writeConfig(t, "root = \"/a\"\nstate = \"/b\"\n[grpc]\naddress = \"/c\"\n[debug]\nlevel = \"info\"\n")
	// Flags win over the file, and the last of two over the first: cliopts come last.
	cl, err := parseFlags([]string{"--root", "/x", "-c", path, "--state=/y", "-a", "/z", "-l", "debug", "--root", "/last"})
	must(t, err)
	cfg, _, err := cl.configuration()
	must(t, err)
	if cfg.Root != "/last" || cfg.State != "/y" || cfg.grpc().Address != "/z" || cfg.ttrpc().Address != "/z.ttrpc" || cfg.Debug.Level != "debug" {
		t.Errorf("got %+v", cfg)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--no-such-flag"}, "no-such-flag"},
		{[]string{"config", "dump"}, `"config": this trimmed containerd has no subcommands`},
	} {
		if _, err := parseFlags(c.args); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.args, err, c.want)
		}
	}
	cl = commandLine{config: filepath.Join(t.TempDir(), "none.toml")}
	if _, _, err := cl.configuration(); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "none.toml") {
		t.Errorf("a file asked for that is not there: %v", err)
	}
	for _, c := range []struct {
		cl   commandLine
		want string
	}{
		{commandLine{config: path, root: "/same", state: "/same"}, "want two folders"},
		{commandLine{config: path, address: "relative.sock"}, "want an absolute path"},
		{commandLine{config: writeConfig(t, "[plugins.'io.containerd.shim.v1.manager']\nsocket_dir = '/run/"+strings.Repeat("x", 50)+"'\n")}, "want at most 42"},
	} {
		if _, _, err := c.cl.configuration(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.cl, err, c.want)
		}
	}
}

func TestVersionAndHelp(t *testing.T) {
	for arg, want := range map[string]string{"--version": "containerd github.com/containerd/containerd/v2 ", "-h": "--log-level LEVEL", "help": "--state DIR"} {
		var out strings.Builder
		must(t, run([]string{arg}, &out))
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: %q, want %q", arg, out.String(), want)
		}
	}
}
