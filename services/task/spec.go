package task

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/api/types/runc/options"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"keelson/internal/bundle"
	"keelson/internal/prepare"
	"keelson/internal/steer"
	"keelson/internal/userns"
)

const (
	runtimeName = "io.containerd.runc.v2"
	specURL     = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

	// groupAnnotation makes the shim of one container serve others too.
	groupAnnotation = "io.containerd.runc.v2.group"
	groupName       = "keelson"

	// ShimCgroup is the shims' own cgroup, so that neither containerd's end nor
	// a container's takes them along.
	ShimCgroup = "/keelson/shim"
)

// cgroupOptions are the options of the machine's cgroup2 file system that belong
// to all its mounts at once: the kernel sets them anew with every mount from the
// first cgroup namespace, so a container's own mount that does not name them
// would take them away from the machine.
//
// Nothing is read beyond the machine's own mount: those of containers come after it,
// three lines for each.
func cgroupOptions(mountinfo io.Reader) []string {
	for lines := bufio.NewScanner(mountinfo); lines.Scan(); {
		_, super, ok := strings.Cut(lines.Text(), " - cgroup2 ")
		if !ok {
			continue
		}
		fields := strings.Fields(super)
		var options []string
		for _, o := range strings.Split(fields[len(fields)-1], ",") {
			if o == "nsdelegate" || strings.HasPrefix(o, "memory_") || o == "favordynmods" {
				options = append(options, o)
			}
		}
		return options
	}
	return nil
}

// hierarchyOptions are those that the machine's cgroup2 file system has or has had: what
// a container with the right to mount has taken away is put back by PID 1, and the next
// container must not take it away once more because it was started in between.
func (r *Runtime) hierarchyOptions() []string {
	var now []string
	if mountinfo, err := os.Open("/proc/self/mountinfo"); err == nil {
		now = cgroupOptions(mountinfo)
		mountinfo.Close()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range now {
		if !slices.Contains(r.options, o) {
			r.options = append(slices.Clone(r.options), o)
		}
	}
	return r.options
}

// withCgroupOptions returns the mounts with these options on those of cgroups.
func withCgroupOptions(mounts []specs.Mount, options []string) []specs.Mount {
	mounts = slices.Clone(mounts)
	for i, m := range mounts {
		if m.Type != "cgroup" && m.Type != "cgroup2" {
			continue
		}
		m.Options = slices.Clone(m.Options)
		for _, o := range options {
			if !slices.Contains(m.Options, o) {
				m.Options = append(m.Options, o)
			}
		}
		mounts[i] = m
	}
	return mounts
}

// spec returns the configuration a container is created with: its own, which is
// hardened by now, with what depends on this machine filled in. notifyFolder is ""
// where the service says nothing of itself, and hidden is what the container does not
// get to see. The options are those of the machine's cgroup2 file system.
func spec(b *bundle.Bundle, grouped bool, notifyFolder string, hidden []steer.Hidden, options []string) (*anypb.Any, error) {
	s := *b.Spec
	root := *s.Root
	root.Path = prepare.Root(b)
	s.Root = &root
	linux := *s.Linux
	linux.CgroupsPath = b.CgroupsPath()
	s.Linux = &linux
	s.Process = process(&s)
	s.Mounts = userns.Mounts(&s)
	if notifyFolder != "" {
		withNotify(&s, b.Service, notifyFolder)
	}
	steer.Hide(&s, hidden)
	if grouped {
		s.Annotations = maps.Clone(s.Annotations)
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		if _, set := s.Annotations[groupAnnotation]; !set {
			s.Annotations[groupAnnotation] = groupName
		}
	}
	s.Mounts = withCgroupOptions(s.Mounts, options)
	data, err := json.Marshal(&s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(b.Dir, "config.json"), err)
	}
	return &anypb.Any{TypeUrl: specURL, Value: data}, nil
}

// Process returns the process that a container is created with, for another one
// that is to have the same rights.
func (r *Runtime) Process(b *bundle.Bundle) (*specs.Process, error) {
	s, _, err := r.Walls.Harden(b)
	if err != nil {
		return nil, err
	}
	return process(s), nil
}

// process returns the process of a configuration, as one that is started here.
func process(s *specs.Spec) *specs.Process {
	p := *s.Process
	if p.OOMScoreAdj == nil {
		// Unset, it would be inherited from the shim, which the OOM killer spares.
		zero := 0
		p.OOMScoreAdj = &zero
	}
	return &p
}

// runtimeOptions are the shim's: where it lives, and who is to have the pipes it
// makes. Stock shims honour them too.
func runtimeOptions(b *bundle.Bundle, shimCgroup string) (*anypb.Any, error) {
	said := &options.Options{ShimCgroup: shimCgroup}
	if users := userns.Of(b.Spec); users != nil {
		uid, gid := users.Owner(0, 0)
		said.IoUid, said.IoGid = uint32(uid), uint32(gid)
	}
	o, err := anypb.New(said)
	if err != nil {
		return nil, fmt.Errorf("encode the runtime's options: %w", err)
	}
	// containerd's own type URLs have no prefix.
	o.TypeUrl = string((&options.Options{}).ProtoReflect().Descriptor().FullName())
	return o, nil
}
