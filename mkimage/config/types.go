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

// Config is a whole image YAML. Its tags give the keys that LinuxKit writes into a
// file with metadata: json or yaml, whether a key was in the YAML or not.
type Config struct {
	Kernel     Kernel   `json:"kernel" yaml:"kernel"`
	Init       []string `json:"init" yaml:"init"`
	Onboot     []*Image `json:"onboot" yaml:"onboot"`
	Onshutdown []*Image `json:"onshutdown" yaml:"onshutdown"`
	Services   []*Image `json:"services" yaml:"services"`
	Files      []File   `json:"files" yaml:"files"`
	Volumes    []Volume `json:"volumes" yaml:"volumes"`

	doc document
}

// Kernel says what boots.
type Kernel struct {
	Image   string  `json:"image" yaml:"image"`
	Cmdline string  `json:"cmdline,omitempty" yaml:"cmdline,omitempty"`
	Binary  string  `json:"binary,omitempty" yaml:"binary,omitempty"` // file of the image; default "kernel"
	Tar     *string `json:"tar,omitempty" yaml:"tar,omitempty"`       // default "kernel.tar"; "none" for none
	UCode   *string `json:"ucode,omitempty" yaml:"ucode,omitempty"`   // a cpio put in front of the initrd
}

// File is one file, folder or symbolic link of the root.
type File struct {
	Path      string  `json:"path" yaml:"path"`
	Directory bool    `json:"directory" yaml:"directory"`
	Symlink   string  `json:"symlink,omitempty" yaml:"symlink,omitempty"`
	Contents  *string `json:"contents,omitempty" yaml:"contents,omitempty"`
	Source    string  `json:"source,omitempty" yaml:"source,omitempty"`
	Metadata  string  `json:"metadata,omitempty" yaml:"metadata,omitempty"`
	Optional  bool    `json:"optional" yaml:"optional"`
	Mode      string  `json:"mode,omitempty" yaml:"mode,omitempty"` // octal
	UID       *ID     `json:"uid,omitempty" yaml:"uid,omitempty"`
	GID       *ID     `json:"gid,omitempty" yaml:"gid,omitempty"`
}

// Volume is a named folder that containers share.
type Volume struct {
	Name      string   `json:"name" yaml:"name"`
	Image     string   `json:"image,omitempty" yaml:"image,omitempty"` // blank: empty
	Readonly  bool     `json:"readonly,omitempty" yaml:"readonly,omitempty"`
	Format    string   `json:"format,omitempty" yaml:"format,omitempty"` // "filesystem" (default) or "oci"
	Platforms []string `json:"platforms,omitempty" yaml:"platforms,omitempty"`
}

// Image is one container.
type Image struct {
	Name      string `json:"name" yaml:"name"`
	Image     string `json:"image" yaml:"image"`
	Container `yaml:",inline"`
}

// Container is what an image's label org.mobyproject.config may say as well.
// Nil means not said: a field of the YAML replaces the label's whole.
type Container struct {
	Capabilities      *[]string               `json:"capabilities,omitempty" yaml:"capabilities,omitempty"`
	CapabilitiesAdd   *[]string               `json:"capabilities.add,omitempty" yaml:"capabilities.add,omitempty"`
	Ambient           *[]string               `json:"ambient,omitempty" yaml:"ambient,omitempty"`
	Mounts            *[]specs.Mount          `json:"mounts,omitempty" yaml:"mounts,omitempty"`
	Binds             *[]string               `json:"binds,omitempty" yaml:"binds,omitempty"`
	BindsAdd          *[]string               `json:"binds.add,omitempty" yaml:"binds.add,omitempty"`
	Devices           *[]Device               `json:"devices,omitempty" yaml:"devices,omitempty"`
	Tmpfs             *[]string               `json:"tmpfs,omitempty" yaml:"tmpfs,omitempty"`
	Command           *[]string               `json:"command,omitempty" yaml:"command,omitempty"`
	Env               *[]string               `json:"env,omitempty" yaml:"env,omitempty"`
	Cwd               string                  `json:"cwd,omitempty" yaml:"cwd,omitempty"`
	Net               string                  `json:"net,omitempty" yaml:"net,omitempty"`
	Pid               string                  `json:"pid,omitempty" yaml:"pid,omitempty"`
	Ipc               string                  `json:"ipc,omitempty" yaml:"ipc,omitempty"`
	Uts               string                  `json:"uts,omitempty" yaml:"uts,omitempty"`
	Userns            string                  `json:"userns,omitempty" yaml:"userns,omitempty"`
	Hostname          string                  `json:"hostname,omitempty" yaml:"hostname,omitempty"`
	Readonly          *bool                   `json:"readonly,omitempty" yaml:"readonly,omitempty"`
	MaskedPaths       *[]string               `json:"maskedPaths,omitempty" yaml:"maskedPaths,omitempty"`
	ReadonlyPaths     *[]string               `json:"readonlyPaths,omitempty" yaml:"readonlyPaths,omitempty"`
	UID               *ID                     `json:"uid,omitempty" yaml:"uid,omitempty"`
	GID               *ID                     `json:"gid,omitempty" yaml:"gid,omitempty"`
	AdditionalGids    *[]ID                   `json:"additionalGids,omitempty" yaml:"additionalGids,omitempty"`
	NoNewPrivileges   *bool                   `json:"noNewPrivileges,omitempty" yaml:"noNewPrivileges,omitempty"`
	OOMScoreAdj       *int                    `json:"oomScoreAdj,omitempty" yaml:"oomScoreAdj,omitempty"`
	RootfsPropagation *string                 `json:"rootfsPropagation,omitempty" yaml:"rootfsPropagation,omitempty"`
	CgroupsPath       *string                 `json:"cgroupsPath,omitempty" yaml:"cgroupsPath,omitempty"`
	Resources         *specs.LinuxResources   `json:"resources,omitempty" yaml:"resources,omitempty"`
	Sysctl            *map[string]string      `json:"sysctl,omitempty" yaml:"sysctl,omitempty"`
	Rlimits           *[]string               `json:"rlimits,omitempty" yaml:"rlimits,omitempty"`
	UIDMappings       *[]specs.LinuxIDMapping `json:"uidMappings,omitempty" yaml:"uidMappings,omitempty"`
	GIDMappings       *[]specs.LinuxIDMapping `json:"gidMappings,omitempty" yaml:"gidMappings,omitempty"`
	Annotations       *map[string]string      `json:"annotations,omitempty" yaml:"annotations,omitempty"`
	Runtime           *Runtime                `json:"runtime,omitempty" yaml:"runtime,omitempty"`
}

// Device is a device node made in the container; Path "all" is a rule for the
// device cgroup only.
type Device struct {
	Path  string `json:"path" yaml:"path"`
	Type  string `json:"type" yaml:"type"`
	Major int64  `json:"major" yaml:"major"`
	Minor int64  `json:"minor" yaml:"minor"`
	Mode  string `json:"mode,omitempty" yaml:"mode,omitempty"` // octal
}

// Runtime is what the init does around the start of the container. All fields
// but one are pointers, to tell "not said" from "empty".
type Runtime struct {
	Cgroups    *[]string      `json:"cgroups,omitempty" yaml:"cgroups,omitempty"`
	Mounts     *[]specs.Mount `json:"mounts,omitempty" yaml:"mounts,omitempty"`
	Mkdir      *[]string      `json:"mkdir,omitempty" yaml:"mkdir,omitempty"`
	Interfaces *[]Interface   `json:"interfaces,omitempty" yaml:"interfaces,omitempty"`
	BindNS     Namespaces     `json:"bindNS" yaml:"bindNS,omitempty"`
	Namespace  *string        `json:"namespace,omitempty" yaml:"namespace,omitempty"`
}

// Namespaces are paths where the container's namespaces are bound to.
type Namespaces struct {
	Cgroup *string `json:"cgroup,omitempty" yaml:"cgroup,omitempty"`
	Ipc    *string `json:"ipc,omitempty" yaml:"ipc,omitempty"`
	Mnt    *string `json:"mnt,omitempty" yaml:"mnt,omitempty"`
	Net    *string `json:"net,omitempty" yaml:"net,omitempty"`
	Pid    *string `json:"pid,omitempty" yaml:"pid,omitempty"`
	User   *string `json:"user,omitempty" yaml:"user,omitempty"`
	Uts    *string `json:"uts,omitempty" yaml:"uts,omitempty"`
}

// Interface is a network interface given to the container.
type Interface struct {
	Name         string `json:"name,omitempty" yaml:"name,omitempty"`
	Add          string `json:"add,omitempty" yaml:"add,omitempty"`
	Peer         string `json:"peer,omitempty" yaml:"peer,omitempty"`
	CreateInRoot bool   `json:"createInRoot" yaml:"createInRoot"`
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

// MarshalYAML gives the number or the name back.
func (id ID) MarshalYAML() (any, error) {
	if id.Name != "" {
		return id.Name, nil
	}
	return id.Number, nil
}

// Label is the image label that holds a Container, as YAML or JSON.
const Label = "org.mobyproject.config"
