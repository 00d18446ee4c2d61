// Package ocispec turns a container of an image YAML, with the label and the
// configuration of its image, into config.json and runtime.json.
//
// It owns the defaults and the rules by which YAML, label and image are merged,
// which are LinuxKit's. It promises the same spec for the same input, and never
// reads a file.
package ocispec

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/mkimage/config"
)

// FirstID is the number of the first container's own user and group.
const FirstID = 100

// stopSignal is the annotation that carries the image's STOPSIGNAL.
const stopSignal = "org.opencontainers.image.stopSignal"

// Users numbers the containers, whose names may stand for a user or group.
func Users(c *config.Config) map[string]uint32 {
	ids := map[string]uint32{}
	next := uint32(FirstID)
	for _, section := range [][]*config.Image{c.Onboot, c.Onshutdown, c.Services} {
		for _, image := range section {
			ids[image.Name] = next
			next++
		}
	}
	return ids
}

// Number returns the number an ID stands for.
func Number(id config.ID, users map[string]uint32) (uint32, error) {
	if id.Name == "" || id.Name == "root" {
		return id.Number, nil
	}
	n, ok := users[id.Name]
	if !ok {
		return 0, fmt.Errorf("%q is no user: use a number, root, or the name of a container", id.Name)
	}
	return n, nil
}

// Inputs are what a spec is made of.
type Inputs struct {
	YAML    config.Container
	Label   config.Container // of the image; the YAML's fields replace its
	Image   v1.Config
	Users   map[string]uint32
	Volumes map[string]string // name of a volume to the folder it is mounted from
}

// first returns the first value that was said, else the zero value.
func first[T any](vs ...*T) T {
	for _, v := range vs {
		if v != nil {
			return *v
		}
	}
	var zero T
	return zero
}

func firstString(vs ...string) string {
	for _, v := range vs {
		if v != "" {
			return v
		}
	}
	return ""
}

// union joins lists that add to each other; nil if none was said.
func union(lists ...*[]string) *[]string {
	var all []string
	said := false
	for _, l := range lists {
		if l == nil {
			continue
		}
		said = true
		for _, s := range *l {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	if !said {
		return nil
	}
	return &all
}

// Spec returns what goes into config.json.
func Spec(in Inputs) (*specs.Spec, error) {
	y, l := in.YAML, in.Label
	readonly := first(y.Readonly, l.Readonly)
	command := slices.Concat(in.Image.Entrypoint, in.Image.Cmd)
	user, err := user(in)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(y, l)
	if err != nil {
		return nil, err
	}
	limits, err := rlimits(first(y.Rlimits, l.Rlimits))
	if err != nil {
		return nil, err
	}
	mounts, err := mounts(in, readonly)
	if err != nil {
		return nil, err
	}
	linux, err := linux(y, l)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			User:            user,
			Args:            first(y.Command, l.Command, &command),
			Env:             first(y.Env, l.Env, &in.Image.Env),
			Cwd:             firstString(y.Cwd, l.Cwd, in.Image.WorkingDir, "/"),
			Capabilities:    caps,
			Rlimits:         limits,
			NoNewPrivileges: first(y.NoNewPrivileges, l.NoNewPrivileges),
		},
		Root:        &specs.Root{Path: "rootfs", Readonly: readonly},
		Hostname:    firstString(y.Hostname, l.Hostname),
		Mounts:      mounts,
		Annotations: annotations(in),
		Linux:       linux,
	}
	if oom := cmpPtr(y.OOMScoreAdj, l.OOMScoreAdj); oom != nil {
		s.Process.OOMScoreAdj = oom
	}
	if len(s.Process.Args) == 0 {
		return nil, fmt.Errorf("there is no command to run: the image has neither entry point nor command; give command: in the YAML")
	}
	return s, nil
}

func cmpPtr[T any](vs ...*T) *T {
	for _, v := range vs {
		if v != nil {
			return v
		}
	}
	return nil
}

func user(in Inputs) (specs.User, error) {
	var u specs.User
	var err error
	if u.UID, err = Number(first(in.YAML.UID, in.Label.UID), in.Users); err != nil {
		return u, fmt.Errorf("uid: %w", err)
	}
	if u.GID, err = Number(first(in.YAML.GID, in.Label.GID), in.Users); err != nil {
		return u, fmt.Errorf("gid: %w", err)
	}
	for _, id := range first(in.YAML.AdditionalGids, in.Label.AdditionalGids) {
		n, err := Number(id, in.Users)
		if err != nil {
			return u, fmt.Errorf("additionalGids: %w", err)
		}
		u.AdditionalGids = append(u.AdditionalGids, n)
	}
	return u, nil
}

// annotations are the YAML's or the label's, as they are. An image's stop
// signal is added where they do not say one.
func annotations(in Inputs) map[string]string {
	a := maps.Clone(first(in.YAML.Annotations, in.Label.Annotations))
	if in.Image.StopSignal != "" && a[stopSignal] == "" {
		if a == nil {
			a = map[string]string{}
		}
		a[stopSignal] = in.Image.StopSignal
	}
	return a
}

// expandCaps resolves "all" and "none".
func expandCaps(caps []string) []string {
	if len(caps) == 1 {
		switch strings.ToLower(caps[0]) {
		case "all":
			return config.Capabilities()
		case "none":
			return nil
		}
	}
	return caps
}

// capabilities fills the sets of capabilities(7): a capability that was named
// is in all of them but the ambient one, an ambient one in all but the effective.
func capabilities(y, l config.Container) (*specs.LinuxCapabilities, error) {
	effective := expandCaps(first(y.Capabilities, union(l.Capabilities, l.CapabilitiesAdd, y.CapabilitiesAdd)))
	ambient := expandCaps(first(y.Ambient, l.Ambient))
	known := config.Capabilities()
	bounding := map[string]bool{}
	for _, c := range slices.Concat(effective, ambient) {
		if !slices.Contains(known, c) {
			return nil, fmt.Errorf("unknown capability %q; all and none must be the only one of a list, label and YAML together", c)
		}
		bounding[c] = true
	}
	set := slices.Sorted(maps.Keys(bounding))
	return &specs.LinuxCapabilities{Bounding: set, Effective: effective, Inheritable: set, Permitted: set, Ambient: ambient}, nil
}

func rlimits(list []string) ([]specs.POSIXRlimit, error) {
	var out []specs.POSIXRlimit
	for _, s := range list {
		name, soft, hard, err := config.ParseRlimit(s)
		if err != nil {
			return nil, fmt.Errorf("rlimits: %w", err)
		}
		out = append(out, specs.POSIXRlimit{Type: name, Soft: soft, Hard: hard})
	}
	return out, nil
}

func linux(y, l config.Container) (*specs.Linux, error) {
	resources := first(y.Resources, l.Resources)
	resources.Devices = slices.Clone(resources.Devices)
	var devices []specs.LinuxDevice
	for _, d := range first(y.Devices, l.Devices) {
		if d.Path == "all" {
			resources.Devices = append(resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Access: "rwm"})
			continue
		}
		mode, err := strconv.ParseUint(d.Mode, 8, 32)
		if err != nil {
			return nil, fmt.Errorf("devices: %s: mode %q must be octal, such as \"0666\"", d.Path, d.Mode)
		}
		fm := fs.FileMode(mode)
		devices = append(devices, specs.LinuxDevice{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &fm})
		resources.Devices = append(resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: "rwm",
		})
	}
	return &specs.Linux{
		UIDMappings:       first(y.UIDMappings, l.UIDMappings),
		GIDMappings:       first(y.GIDMappings, l.GIDMappings),
		Sysctl:            first(y.Sysctl, l.Sysctl),
		Resources:         &resources,
		CgroupsPath:       first(y.CgroupsPath, l.CgroupsPath),
		Namespaces:        namespaces(y, l),
		Devices:           devices,
		RootfsPropagation: first(y.RootfsPropagation, l.RootfsPropagation),
		MaskedPaths:       first(y.MaskedPaths, l.MaskedPaths),
		ReadonlyPaths:     first(y.ReadonlyPaths, l.ReadonlyPaths),
	}, nil
}

// namespaces lists the container's own: net, ipc, uts and user are the host's
// unless said otherwise, pid is its own, mount always is.
func namespaces(y, l config.Container) []specs.LinuxNamespace {
	var list []specs.LinuxNamespace
	add := func(typ specs.LinuxNamespaceType, value, def string, own ...string) {
		value = firstString(value, def)
		if value == "host" || value == "root" {
			return
		}
		if slices.Contains(own, value) {
			value = ""
		}
		list = append(list, specs.LinuxNamespace{Type: typ, Path: value})
	}
	add(specs.NetworkNamespace, firstString(y.Net, l.Net), "host", "new", "none")
	add(specs.IPCNamespace, firstString(y.Ipc, l.Ipc), "host", "new")
	add(specs.UTSNamespace, firstString(y.Uts, l.Uts), "host", "new")
	add(specs.PIDNamespace, firstString(y.Pid, l.Pid), "new", "new")
	add(specs.UserNamespace, firstString(y.Userns, l.Userns), "host", "new")
	return append(list, specs.LinuxNamespace{Type: specs.MountNamespace})
}
