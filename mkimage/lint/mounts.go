package lint

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/mounts"
	"keelson/mkimage/config"
	"keelson/mkimage/view"
)

// mounts checks what is bound and what is mounted on.
func (o *one) mounts() {
	for _, m := range o.view.Mounts {
		key := o.keyOf(m.Mount)
		if m.Bind {
			o.source(key, m.Source, m.Mount)
		}
		o.target(key, m)
		if mapped := len(m.UIDMappings) + len(m.GIDMappings); mapped > 0 && !m.Bind {
			o.error(key, "users can be mapped in a bind only: leave out uidmappings and gidmappings")
		} else if mapped > 0 && (len(m.UIDMappings) == 0 || len(m.GIDMappings) == 0) {
			o.error(key, "users are mapped and groups are not, or the other way round: give both uidmappings and gidmappings")
		}
	}
	for i, f := range o.view.Devices {
		if o.Bundle.Spec.Root.Readonly && f.State == view.Missing && f.Place == view.Image {
			o.error(index("devices", i), "%s would be made in the image, which is readonly: name a path in /dev", f.Path)
		}
	}
}

// keyOf returns the field that a mount comes from.
func (o *one) keyOf(m specs.Mount) string {
	y := o.YAML
	if y.Mounts != nil {
		for i, have := range *y.Mounts {
			typ := have.Type
			if typ == "" {
				typ = config.DefaultMountType(have.Source, have.Destination)
			}
			if have.Destination == m.Destination || have.Destination == "" && config.DefaultMountpoint(typ) == m.Destination {
				return index("mounts", i)
			}
		}
	}
	for _, list := range []struct {
		key   string
		items *[]string
		bind  bool
	}{{"binds.add", y.BindsAdd, true}, {"binds", y.Binds, true}, {"tmpfs", y.Tmpfs, false}} {
		if list.items == nil {
			continue
		}
		for i, item := range slices.Backward(*list.items) {
			words := strings.Split(item, ":")
			if list.bind && len(words) > 1 && words[1] == m.Destination || !list.bind && words[0] == m.Destination {
				return index(list.key, i)
			}
		}
	}
	if m.Type == "bind" {
		return "binds"
	}
	return "mounts"
}

// source checks that what is bound is there, or can come to be.
func (o *one) source(key string, f view.Found, m specs.Mount) {
	if f.State != view.Missing || mounts.Parse(m.Options).NoFail {
		return
	}
	strength := o.machine.Maker(f, o.Bundle)
	switch {
	case strength == view.Does:
	case f.Place == view.NotADir:
		o.error(key, "%s cannot be: %s is a file", m.Source, f.Path)
	case f.Place == view.Area && o.machine.Hidden(m.Source):
		o.graded(strength, key, "%s is not there in the machine: %s is empty at each boot, and hides what the image has there; put it elsewhere, such as /etc, and bind that", m.Source, f.Area)
	case f.Place == view.Area:
		o.graded(strength, key, "nothing makes %s: %s is empty at each boot; to make a directory add runtime: {mkdir: [%s]}", m.Source, f.Area, path.Clean(m.Source))
	case strength == view.Might:
		o.warn(key, "the image has no %s; only a container or a script that may do anything could make it", m.Source)
	default:
		o.error(key, "nothing in the image makes %s: put it there with files: or an image of init:, or leave it out", m.Source)
	}
}

// target checks where something is mounted. What a read-only image lacks was made with it.
func (o *one) target(key string, m view.Mount) {
	f := m.Target
	switch {
	case f.State == view.Missing && f.Place == view.NotADir:
		o.error(key, "cannot be mounted at %s: %s is a file in the image", m.Destination, f.Path)
	case f.State == view.Missing && f.Place == view.Root:
		o.error(key, "cannot be mounted at %s: that lies in what is bound of the machine's read-only root, where it is not; make it there with files:", m.Destination)
	case f.State != view.There:
	case m.Bind && m.Source.State == view.There && m.Source.Dir != f.Dir:
		o.error(key, "%s is a %s and %s in the container a %s: bind a %[4]s there, or elsewhere", m.Source.Path, kind(m.Source), m.Destination, kind(f))
	case !m.Bind && !f.Dir:
		o.error(key, "%s is a file in the container: mount %s elsewhere", m.Destination, m.Type)
	}
}

func kind(f view.Found) string {
	if f.Dir {
		return "directory"
	}
	return "file"
}

// runtime checks what the machine does around the container.
func (o *one) runtime() {
	r := o.Bundle.Runtime
	first := len(r.Mounts) // the builder's own, which make the root, come before the YAML's
	if y := o.YAML.Runtime; y != nil && y.Mounts != nil {
		first -= len(*y.Mounts)
	}
	for i, m := range r.Mounts {
		e := mounts.Entry{Source: m.Source, Target: m.Destination, Type: m.Type, Options: m.Options}
		key := index("runtime.mounts", max(i-first, 0))
		if e.Target != "" {
			e.Target = path.Join("/", e.Target) // a relative one lies in the container's root
		}
		if err := e.Check(); err != nil {
			o.error(key, "%v", err)
			continue
		}
		if e.IsBind() && path.Clean(e.Target) != o.Bundle.Rootfs() {
			o.source(key, o.machine.Find(e.Source), m)
		}
	}
	for i, dir := range r.Mkdir {
		if dir == "" {
			o.error(index("runtime.mkdir", i), "is empty: name a directory, absolute or relative to the container's root")
		}
	}
	n := r.BindNS
	for key, file := range map[string]string{"cgroup": n.Cgroup, "ipc": n.IPC, "mnt": n.Mnt, "net": n.Net, "pid": n.PID, "user": n.User, "uts": n.UTS} {
		if file != "" && !path.IsAbs(file) {
			o.error("runtime.bindNS."+key, "%q is not absolute: name a file, such as /run/netns/%s", file, o.Bundle.Name)
		}
	}
}
