// Package config reads an image YAML, LinuxKit's format with its closed schema.
//
// It owns what may be written and how mistakes are told: file, line, field,
// what is wrong and what would be right, all of them and not only the first.
// It promises that a Config it returns needs no further checks of types. It
// never looks at images; what a field becomes in config.json is ocispec's.
package config

import (
	"encoding/json"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Config is a whole image YAML.
type Config struct {
	Kernel     Kernel   `json:"kernel,omitzero"`
	Init       []string `json:"init,omitempty"`
	Onboot     []*Image `json:"onboot,omitempty"`
	Onshutdown []*Image `json:"onshutdown,omitempty"`
	Services   []*Image `json:"services,omitempty"`
	Files      []File   `json:"files,omitempty"`
	Volumes    []Volume `json:"volumes,omitempty"`

	doc document
}

// Kernel says what boots.
type Kernel struct {
	Image   string  `json:"image"`
	Cmdline string  `json:"cmdline,omitempty"`
	Binary  string  `json:"binary,omitempty"` // file of the image; default "kernel"
	Tar     *string `json:"tar,omitempty"`    // default "kernel.tar"; "none" for none
	UCode   *string `json:"ucode,omitempty"`  // a cpio put in front of the initrd
}

// File is one file, folder or symbolic link of the root.
type File struct {
	Path      string  `json:"path"`
	Directory bool    `json:"directory,omitempty"`
	Symlink   string  `json:"symlink,omitempty"`
	Contents  *string `json:"contents,omitempty"`
	Source    string  `json:"source,omitempty"`
	Metadata  string  `json:"metadata,omitempty"`
	Optional  bool    `json:"optional,omitempty"`
	Mode      string  `json:"mode,omitempty"` // octal
	UID       ID      `json:"uid,omitzero"`
	GID       ID      `json:"gid,omitzero"`
}

// Volume is a named folder that containers share.
type Volume struct {
	Name      string   `json:"name"`
	Image     string   `json:"image,omitempty"` // blank: empty
	Readonly  bool     `json:"readonly,omitempty"`
	Format    string   `json:"format,omitempty"` // "filesystem" (default) or "oci"
	Platforms []string `json:"platforms,omitempty"`
}

// Image is one container.
type Image struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	Container
}

// Container is what an image's label org.mobyproject.config may say as well.
// Nil means not said: a field of the YAML replaces the label's whole.
type Container struct {
	Capabilities      *[]string               `json:"capabilities,omitempty"`
	CapabilitiesAdd   *[]string               `json:"capabilities.add,omitempty"`
	Ambient           *[]string               `json:"ambient,omitempty"`
	Mounts            *[]specs.Mount          `json:"mounts,omitempty"`
	Binds             *[]string               `json:"binds,omitempty"`
	BindsAdd          *[]string               `json:"binds.add,omitempty"`
	Devices           *[]Device               `json:"devices,omitempty"`
	Tmpfs             *[]string               `json:"tmpfs,omitempty"`
	Command           *[]string               `json:"command,omitempty"`
	Env               *[]string               `json:"env,omitempty"`
	Cwd               string                  `json:"cwd,omitempty"`
	Net               string                  `json:"net,omitempty"`
	Pid               string                  `json:"pid,omitempty"`
	Ipc               string                  `json:"ipc,omitempty"`
	Uts               string                  `json:"uts,omitempty"`
	Userns            string                  `json:"userns,omitempty"`
	Hostname          string                  `json:"hostname,omitempty"`
	Readonly          *bool                   `json:"readonly,omitempty"`
	MaskedPaths       *[]string               `json:"maskedPaths,omitempty"`
	ReadonlyPaths     *[]string               `json:"readonlyPaths,omitempty"`
	UID               *ID                     `json:"uid,omitempty"`
	GID               *ID                     `json:"gid,omitempty"`
	AdditionalGids    *[]ID                   `json:"additionalGids,omitempty"`
	NoNewPrivileges   *bool                   `json:"noNewPrivileges,omitempty"`
	OOMScoreAdj       *int                    `json:"oomScoreAdj,omitempty"`
	RootfsPropagation *string                 `json:"rootfsPropagation,omitempty"`
	CgroupsPath       *string                 `json:"cgroupsPath,omitempty"`
	Resources         *specs.LinuxResources   `json:"resources,omitempty"`
	Sysctl            *map[string]string      `json:"sysctl,omitempty"`
	Rlimits           *[]string               `json:"rlimits,omitempty"`
	UIDMappings       *[]specs.LinuxIDMapping `json:"uidMappings,omitempty"`
	GIDMappings       *[]specs.LinuxIDMapping `json:"gidMappings,omitempty"`
	Annotations       *map[string]string      `json:"annotations,omitempty"`
	Runtime           *Runtime                `json:"runtime,omitempty"`
}

// Device is a device node made in the container; Path "all" is a rule for the
// device cgroup only.
type Device struct {
	Path  string `json:"path"`
	Type  string `json:"type"`
	Major int64  `json:"major"`
	Minor int64  `json:"minor"`
	Mode  string `json:"mode,omitempty"` // octal
}

// Runtime is what the init does around the start of the container. All fields
// but one are pointers, to tell "not said" from "empty".
type Runtime struct {
	Cgroups    *[]string      `json:"cgroups,omitempty"`
	Mounts     *[]specs.Mount `json:"mounts,omitempty"`
	Mkdir      *[]string      `json:"mkdir,omitempty"`
	Interfaces *[]Interface   `json:"interfaces,omitempty"`
	BindNS     Namespaces     `json:"bindNS,omitzero"`
	Namespace  *string        `json:"namespace,omitempty"`
}

// Namespaces are paths where the container's namespaces are bound to.
type Namespaces struct {
	Cgroup *string `json:"cgroup,omitempty"`
	Ipc    *string `json:"ipc,omitempty"`
	Mnt    *string `json:"mnt,omitempty"`
	Net    *string `json:"net,omitempty"`
	Pid    *string `json:"pid,omitempty"`
	User   *string `json:"user,omitempty"`
	Uts    *string `json:"uts,omitempty"`
}

// Interface is a network interface given to the container.
type Interface struct {
	Name         string `json:"name,omitempty"`
	Add          string `json:"add,omitempty"`
	Peer         string `json:"peer,omitempty"`
	CreateInRoot bool   `json:"createInRoot"`
}

// ID is a user or group: a number, or the name of a container, which has a
// number of its own.
type ID struct {
	Number uint32
	Name   string // "" if it is a number
}

// UnmarshalJSON takes a number or a string.
func (id *ID) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &id.Name)
	}
	return json.Unmarshal(b, &id.Number)
}

// MarshalJSON gives the number or the name back.
func (id ID) MarshalJSON() ([]byte, error) {
	if id.Name != "" {
		return json.Marshal(id.Name)
	}
	return json.Marshal(id.Number)
}

// Label is the image label that holds a Container, as YAML or JSON.
const Label = "org.mobyproject.config"
