package ocispec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/mkimage/config"
)

// Runtime returns what goes into runtime.json, every field of it set: rootfs
// mounts first, then the YAML's or the label's field by field.
func Runtime(yaml, label *config.Runtime, rootfs []specs.Mount) config.Runtime {
	var y, l config.Runtime
	if yaml != nil {
		y = *yaml
	}
	if label != nil {
		l = *label
	}
	mounts := append(rootfs, first(y.Mounts, l.Mounts)...)
	return config.Runtime{
		Cgroups:    listOf(y.Cgroups, l.Cgroups),
		Mounts:     &mounts,
		Mkdir:      listOf(y.Mkdir, l.Mkdir),
		Interfaces: listOf(y.Interfaces, l.Interfaces),
		BindNS: config.Namespaces{
			Cgroup: said(y.BindNS.Cgroup, l.BindNS.Cgroup),
			Ipc:    said(y.BindNS.Ipc, l.BindNS.Ipc),
			Mnt:    said(y.BindNS.Mnt, l.BindNS.Mnt),
			Net:    said(y.BindNS.Net, l.BindNS.Net),
			Pid:    said(y.BindNS.Pid, l.BindNS.Pid),
			User:   said(y.BindNS.User, l.BindNS.User),
			Uts:    said(y.BindNS.Uts, l.BindNS.Uts),
		},
		Namespace: said(y.Namespace, l.Namespace),
	}
}

func said(vs ...*string) *string {
	s := first(vs...)
	return &s
}

func listOf[T any](vs ...*[]T) *[]T {
	l := first(vs...)
	if l == nil {
		l = []T{}
	}
	return &l
}
