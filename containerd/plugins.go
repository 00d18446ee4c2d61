package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/events/exchange"
	"github.com/containerd/containerd/v2/core/metadata"
	runtimev2 "github.com/containerd/containerd/v2/core/runtime/v2"
	"github.com/containerd/containerd/v2/pkg/timeout"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	_ "github.com/containerd/containerd/v2/plugins/events"
	_ "github.com/containerd/containerd/v2/plugins/services/containers"
	_ "github.com/containerd/containerd/v2/plugins/services/events"
	_ "github.com/containerd/containerd/v2/plugins/services/healthcheck"
	_ "github.com/containerd/containerd/v2/plugins/services/introspection"
	_ "github.com/containerd/containerd/v2/plugins/services/namespaces"
	_ "github.com/containerd/containerd/v2/plugins/services/version"
	_ "github.com/containerd/containerd/v2/plugins/services/warning"

	"keelson/containerd/tasks"
)

// pluginList is everything the daemon is made of. A plugin that some package
// registers on the side is not loaded unless it stands here.
var pluginList = []string{
	"io.containerd.event.v1.exchange",
	"io.containerd.metadata.v1.bolt",
	"io.containerd.warning.v1.deprecations",
	"io.containerd.shim.v1.keelson",
	"io.containerd.runtime.v2.task",
	"io.containerd.service.v1.containers-service",
	"io.containerd.service.v1.namespaces-service",
	"io.containerd.service.v1.introspection-service",
	"io.containerd.grpc.v1.containers",
	"io.containerd.grpc.v1.namespaces",
	"io.containerd.grpc.v1.introspection",
	"io.containerd.grpc.v1.tasks",
	"io.containerd.grpc.v1.events",
	"io.containerd.grpc.v1.version",
	"io.containerd.grpc.v1.healthcheck",
}

// boltOpenTimeout is containerd's own name for the time that opening the
// metadata may wait for another daemon to let go of it.
const boltOpenTimeout = "io.containerd.timeout.bolt.open"

func init() {
	timeout.Set(boltOpenTimeout, 10*time.Second)
	registry.Register(&plugin.Registration{
		Type:     plugins.MetadataPlugin,
		ID:       "bolt",
		Requires: []plugin.Type{plugins.EventPlugin},
		InitFn:   openMetadata,
	})
	registry.Register(&plugin.Registration{
		Type:     plugins.ShimPlugin,
		ID:       "keelson", // containerd's own is "manager"
		Requires: []plugin.Type{plugins.EventPlugin, plugins.MetadataPlugin},
		Config:   &Shim{},
		InitFn:   manageShims,
	})
}

// manageShims makes containerd's shim manager, with the groups that the tasks
// service knows where containerd has the sandboxes of CRI.
func manageShims(ic *plugin.InitContext) (any, error) {
	ep, err := ic.GetSingle(plugins.EventPlugin)
	if err != nil {
		return nil, err
	}
	db, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil, err
	}
	shim := ic.Config.(*Shim)
	return runtimev2.NewShimManager(&runtimev2.ManagerConfig{
		Address:      ic.Properties[plugins.PropertyGRPCAddress],
		TTRPCAddress: ic.Properties[plugins.PropertyTTRPCAddress],
		SocketDir:    shim.SocketDir,
		ShimEnv:      shim.Env,
		Events:       ep.(*exchange.Exchange),
		Store:        metadata.NewContainerStore(db.(*metadata.DB)),
		SandboxStore: tasks.Sandboxes{},
	})
}

// openMetadata opens containers and namespaces. There is no content store and
// no snapshotter: nothing here pulls or unpacks.
func openMetadata(ic *plugin.InitContext) (any, error) {
	root := ic.Properties[plugins.PropertyRootDir]
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, err
	}
	exchange, err := ic.GetSingle(plugins.EventPlugin)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(root, "meta.db")
	ic.Meta.Exports["path"] = path
	options := *bolt.DefaultOptions
	options.NoFreelistSync = true
	options.NoStatistics = true
	options.Timeout = timeout.Get(boltOpenTimeout)
	db, err := bolt.Open(path, 0o644, &options)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: another containerd has held it for %s", path, options.Timeout)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	mdb := metadata.NewDB(db, nil, nil, metadata.WithEventsPublisher(exchange.(events.Publisher)))
	if err := mdb.Init(ic.Context); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", path, err)
	}
	return mdb, nil
}

// loadPlugins initialises the list in the order its members need each other.
// On an error the set holds those that were up by then.
func loadPlugins(ctx context.Context, cfg *Config) (*plugin.Set, error) {
	set := plugin.NewPluginSet()
	skip := func(r *plugin.Registration) bool {
		return !slices.Contains(pluginList, r.URI()) || slices.Contains(cfg.DisabledPlugins, r.URI())
	}
	for _, reg := range registry.Graph(skip) {
		id := reg.URI()
		ic := plugin.NewContext(ctx, set, map[string]string{
			plugins.PropertyRootDir:      filepath.Join(cfg.Root, id),
			plugins.PropertyStateDir:     filepath.Join(cfg.State, id),
			plugins.PropertyGRPCAddress:  cfg.grpc().Address,
			plugins.PropertyTTRPCAddress: cfg.ttrpc().Address,
		})
		ic.RegisterReadiness = func() func() { return func() {} }
		ic.Config = reg.Config
		if _, ok := reg.Config.(*Shim); ok {
			ic.Config = &cfg.Plugins.Shim
		}
		p := reg.Init(ic)
		if err := p.Err(); err != nil {
			return set, fmt.Errorf("plugin %s: %w", id, err)
		}
		if err := set.Add(p); err != nil {
			return set, err
		}
	}
	return set, nil
}
