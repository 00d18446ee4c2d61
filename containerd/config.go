package containerd

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/timeout"
	"github.com/containerd/containerd/v2/version"
	"github.com/pelletier/go-toml/v2"
)

// Where the daemon keeps its files when neither flag nor file says. Both are
// below /run: nothing it knows outlives the boot, and a disk mounted over
// /var/lib/containerd while it runs does it no harm.
const (
	DefaultRoot  = "/run/containerd/root"
	DefaultState = "/run/containerd/state"
)

// maxSocketDir leaves room for a slash, the name and the final zero.
const maxSocketDir = 108 - 1 - 64 - 1

// Config is the part of containerd's configuration file that has an effect
// here. Names, meanings and versions (1 to 4) are containerd's own; see
// containerd-config.toml(5).
type Config struct {
	Version         int               `toml:"version"`
	Root            string            `toml:"root"`
	State           string            `toml:"state"`
	OOMScore        int               `toml:"oom_score"` // -1000 to 1000; 0 leaves it alone
	DisabledPlugins []string          `toml:"disabled_plugins"`
	RequiredPlugins []string          `toml:"required_plugins"`
	Timeouts        map[string]string `toml:"timeouts"`
	Debug           Debug             `toml:"debug"`
	GRPC            Socket            `toml:"grpc"`  // up to version 3
	TTRPC           Socket            `toml:"ttrpc"` // up to version 3
	Plugins         struct {
		GRPC  Socket `toml:"io.containerd.server.v1.grpc"`  // version 4
		TTRPC Socket `toml:"io.containerd.server.v1.ttrpc"` // version 4
		Shim  Shim   `toml:"io.containerd.shim.v1.manager"`
	} `toml:"plugins"`

	timeouts map[string]time.Duration
}

// Debug is the [debug] table.
type Debug struct {
	Level  string `toml:"level"`
	Format string `toml:"format"` // text or json
}

// Socket is where a server listens and who may connect.
type Socket struct {
	Address        string `toml:"address"`
	UID            int    `toml:"uid"`
	GID            int    `toml:"gid"`
	MaxRecvMsgSize int    `toml:"max_recv_message_size"` // bytes; gRPC only
	MaxSendMsgSize int    `toml:"max_send_message_size"` // bytes; gRPC only
}

// Shim is what every shim is started with.
type Shim struct {
	Env       []string `toml:"env"`
	SocketDir string   `toml:"socket_dir"`
}

// Default is the configuration in force without a file.
func Default() *Config {
	c := &Config{Version: version.ConfigVersion, Root: DefaultRoot, State: DefaultState}
	c.settle()
	return c
}

// Load reads a configuration file. The strings say, one line each, which of
// its settings have no effect here. A file that is not there is an error that
// wraps os.ErrNotExist.
func Load(path string) (*Config, []string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	c := &Config{Root: DefaultRoot, State: DefaultState}
	dec := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields()
	var warnings []string
	err = dec.Decode(c)
	var unknown *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		for i := range unknown.Errors {
			row, _ := unknown.Errors[i].Position()
			warnings = append(warnings, fmt.Sprintf("%s:%d: %s has no effect in this trimmed containerd; the stock binary reads it",
				path, row, keyName(unknown.Errors[i].Key())))
		}
	case errors.As(err, &bad):
		row, col := bad.Position()
		where := fmt.Sprintf("%s:%d:%d", path, row, col)
		if key := bad.Key(); len(key) > 0 {
			where += ": " + keyName(key)
		}
		return nil, nil, fmt.Errorf("%s: %s", where, inWords(strings.TrimPrefix(bad.Error(), "toml: ")))
	case err != nil:
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	if c.Version > version.ConfigVersion {
		return nil, nil, fmt.Errorf("%s: version: is %d, want at most %d", path, c.Version, version.ConfigVersion)
	}
	given := map[string]time.Duration{}
	for key, value := range c.Timeouts {
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return nil, nil, fmt.Errorf("%s: timeouts.%q: is %q, want a duration such as \"5s\"", path, key, value)
		}
		if _, ok := timeout.All()[key]; !ok {
			warnings = append(warnings, fmt.Sprintf("%s: timeouts.%q has no effect in this trimmed containerd", path, key))
		}
		given[key] = d
	}
	for _, id := range c.RequiredPlugins {
		if !slices.ContainsFunc(pluginList, func(p string) bool { return p == id }) {
			return nil, nil, fmt.Errorf("%s: required_plugins: this trimmed containerd has no %q; put the stock binary in its place, or take the entry out", path, id)
		}
	}
	c.settle()
	maps.Copy(c.timeouts, given)
	return c, warnings, nil
}

// patience is how long a shim may take where the stock limits, of 5 s each, are too
// short for a slow machine: the shim of many containers is asked for all of them at
// once. One that has not told in time of a container counts as dead, and the container
// is killed; one that died and whose containers could not all be removed in time leaves
// the rest running, unknown to everybody.
var patience = map[string]time.Duration{
	"io.containerd.timeout.shim.load":    15 * time.Second,
	"io.containerd.timeout.shim.cleanup": time.Minute,
}

// settle fills in what was left out. The tables of version 4 win over the
// older ones.
func (c *Config) settle() {
	c.timeouts = maps.Clone(patience)
	for _, s := range []struct{ new, old *Socket }{{&c.Plugins.GRPC, &c.GRPC}, {&c.Plugins.TTRPC, &c.TTRPC}} {
		if s.new.Address == "" {
			s.new.Address = s.old.Address
		}
		if s.new.UID == 0 && s.new.GID == 0 {
			s.new.UID, s.new.GID = s.old.UID, s.old.GID
		}
		if s.new.MaxRecvMsgSize == 0 {
			s.new.MaxRecvMsgSize = s.old.MaxRecvMsgSize
		}
		if s.new.MaxSendMsgSize == 0 {
			s.new.MaxSendMsgSize = s.old.MaxSendMsgSize
		}
	}
	if c.Plugins.GRPC.Address == "" {
		c.Plugins.GRPC.Address = defaults.DefaultAddress
	}
	if c.Plugins.GRPC.MaxRecvMsgSize <= 0 {
		c.Plugins.GRPC.MaxRecvMsgSize = defaults.DefaultMaxRecvMsgSize
	}
	if c.Plugins.GRPC.MaxSendMsgSize <= 0 {
		c.Plugins.GRPC.MaxSendMsgSize = defaults.DefaultMaxSendMsgSize
	}
	if c.Plugins.Shim.SocketDir == "" {
		c.Plugins.Shim.SocketDir = filepath.Join(defaults.DefaultStateDir, "s")
	}
	if c.Debug.Level == "" {
		c.Debug.Level = "warn"
	}
	if c.Debug.Format == "" {
		c.Debug.Format = "text"
	}
}

// grpc is where clients connect.
func (c *Config) grpc() Socket { return c.Plugins.GRPC }

// ttrpc is where shims deliver their events: beside the other socket unless
// the file places it itself.
func (c *Config) ttrpc() Socket {
	s := c.Plugins.TTRPC
	if s.Address == "" {
		s.Address = c.Plugins.GRPC.Address + ".ttrpc"
	}
	if s.UID == 0 && s.GID == 0 {
		s.UID, s.GID = c.Plugins.GRPC.UID, c.Plugins.GRPC.GID
	}
	return s
}

// check refuses what cannot work.
func (c *Config) check() error {
	for _, p := range []struct{ name, path string }{
		{"root", c.Root}, {"state", c.State},
		{"the gRPC address", c.grpc().Address}, {"the ttrpc address", c.ttrpc().Address},
		{"the shims' socket_dir", c.Plugins.Shim.SocketDir},
	} {
		if !strings.HasPrefix(p.path, "/") {
			return fmt.Errorf("%s is %q, want an absolute path", p.name, p.path)
		}
	}
	if c.Root == c.State {
		return fmt.Errorf("root and state are both %q, want two folders", c.Root)
	}
	// A shim's socket is named by 64 hexadecimal digits, a socket's path has 108 bytes.
	if dir := filepath.Clean(c.Plugins.Shim.SocketDir); len(dir) > maxSocketDir {
		return fmt.Errorf("the shims' socket_dir is %q: %d characters, want at most %d", dir, len(dir), maxSocketDir)
	}
	if c.OOMScore < -1000 || c.OOMScore > 1000 {
		return fmt.Errorf("oom_score is %d, want -1000 to 1000", c.OOMScore)
	}
	return nil
}

// inWords says of a value of the wrong type what it is and what it should be,
// where the decoder speaks of Go's types.
func inWords(message string) string {
	is, want, ok := strings.Cut(strings.TrimPrefix(message, "cannot decode TOML "), " into ")
	if !ok || !strings.HasPrefix(message, "cannot decode TOML ") {
		return message
	}
	if _, t, ok := strings.Cut(want, " of type "); ok {
		want = t
	}
	switch want {
	case "string":
	case "int":
		want = "integer"
	case "[]string":
		want = "list of strings"
	default:
		want = "table"
	}
	return fmt.Sprintf("is of type %s, want %s", is, want)
}

// keyName writes a key as it stands in the file.
func keyName(key toml.Key) string {
	parts := make([]string, len(key))
	for i, k := range key {
		if strings.ContainsAny(k, ". ") {
			k = `"` + k + `"`
		}
		parts[i] = k
	}
	return strings.Join(parts, ".")
}
