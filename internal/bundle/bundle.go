// Package bundle owns what one container folder of the image says: its
// config.json (an OCI runtime-spec configuration), its runtime.json (what the
// machine does around the container) and, from the annotations, its policy.
//
// It promises an error that names the file and the field for whatever cannot be
// used, and a warning, with the default in force, for what can. It only reads;
// it must never change the machine.
package bundle

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/policy"
)

// Section is a section of the image YAML that holds containers, and the name of
// its folder under /containers.
type Section string

// The sections, in the order the machine comes to them.
const (
	Onboot     Section = "onboot"
	Services   Section = "services"
	Onshutdown Section = "onshutdown"
)

// Cgroup returns the cgroup that the section's containers are below, unless they say
// otherwise. Those of one-shots are below the services', whose limits hold for all
// containers together: what one-shots wrote to memory is there after their exit. No
// service has a name with a dot first.
func (s Section) Cgroup() string {
	if s == Services {
		return "/" + string(Services)
	}
	return "/" + string(Services) + "/." + string(s)
}

// Runtime is runtime.json: what is done for a container before it is created
// (Mounts, Mkdir, Cgroups, in this order) and before it is started (Interfaces,
// BindNS). Relative paths of Mounts and Mkdir are under the container's rootfs.
type Runtime struct {
	Cgroups    []string      `json:"cgroups,omitempty"`
	Mounts     []specs.Mount `json:"mounts,omitempty"`
	Mkdir      []string      `json:"mkdir,omitempty"`
	Interfaces []Interface   `json:"interfaces,omitempty"`
	BindNS     BindNS        `json:"bindNS,omitempty"`
	// Namespace is the containerd namespace, DefaultNamespace if empty.
	Namespace string `json:"namespace,omitempty"`
	// Order is the container's place in its section of the image YAML, from 1 on; 0 if
	// the builder of the image has not written it down.
	Order int `json:"order,omitempty"`
}

// Interface is a network link given to a container. Without Add an existing
// link of that name is moved; Add is a link type to create; Peer implies veth.
// CreateInRoot makes the link in the machine's own network namespace and then
// moves it.
type Interface struct {
	Name         string `json:"name,omitempty"`
	Add          string `json:"add,omitempty"`
	Peer         string `json:"peer,omitempty"`
	CreateInRoot bool   `json:"createInRoot,omitempty"`
}

// BindNS names a file for each namespace of the container that is to be kept
// by a bind mount.
type BindNS struct {
	Cgroup string `json:"cgroup,omitempty"`
	IPC    string `json:"ipc,omitempty"`
	Mnt    string `json:"mnt,omitempty"`
	Net    string `json:"net,omitempty"`
	PID    string `json:"pid,omitempty"`
	User   string `json:"user,omitempty"`
	UTS    string `json:"uts,omitempty"`
}

// DefaultNamespace is the containerd namespace of a container whose
// runtime.json names none.
const DefaultNamespace = "services.linuxkit"

// Bundle is one container of the image.
type Bundle struct {
	Dir     string // its folder, absolute
	Section Section
	Name    string // the folder's name: NAME, or NNN-NAME for a one-shot
	ID      string // the container's ID in containerd: FullName, where containerd accepts that
	Spec    *specs.Spec
	Runtime Runtime
	// Service is the policy of a service, OneShot that of an onboot or
	// onshutdown container; the other one is the zero value.
	Service policy.Service
	OneShot policy.OneShot
	// Warnings say which settings were not understood; their defaults are in force.
	Warnings []string
}

// ownCgroup is where the supervisor, containerd and the shims live.
const ownCgroup = "/keelson"

// CheckCgroupsPath returns what is wrong with a container's cgroupsPath, which may be
// empty: a container has a cgroup for itself, whose limits and end are its own.
func CheckCgroupsPath(path string) error {
	if path == "" {
		return nil
	}
	switch p := filepath.Join("/", path); {
	case p == "/":
		return fmt.Errorf("%q is the whole machine, which would be limited and killed with the container: name a group below it, or none", path)
	case p == ownCgroup || strings.HasPrefix(p, ownCgroup+"/"):
		return fmt.Errorf("%s holds the system itself, which would be killed with the container: name another, or none", p)
	case slices.ContainsFunc([]Section{Services, Onboot, Onshutdown}, func(s Section) bool { return p == s.Cgroup() }):
		return fmt.Errorf("%s holds the groups of all containers of that section, which would be killed with the container: name a group below it, or none", p)
	}
	return nil
}

// idPattern and maxID are what containerd accepts as an identifier.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)

const (
	maxID     = 76
	maxPrefix = 40 // how much of a name goes into its mapped ID
)

// mappedID is the ID of a one-shot whose name containerd does not accept. LinuxKit
// runs one-shots without containerd, so their names are free. It is the same for the
// same name, and two names have two: the hash is of all of the name. No other ID has
// the section and a dash in front.
func mappedID(section Section, name string) string {
	words := strings.FieldsFunc(name, func(r rune) bool { return !idLetter(r) })
	prefix := strings.Join(words, "-")
	if len(prefix) > maxPrefix {
		prefix = strings.TrimRight(prefix[:maxPrefix], "-")
	}
	return strings.TrimSuffix(string(section)+"-"+prefix, "-") + fmt.Sprintf(".%x", sha256.Sum256([]byte(name)))[:17]
}

func idLetter(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// Load reads the container folder dir. On an error the Bundle still carries
// what is known (name, ID, and policy where config.json was readable), so that
// the failure can be dealt with as the container's policy says.
func Load(section Section, dir string) (*Bundle, error) {
	b := &Bundle{Dir: dir, Section: section, Name: filepath.Base(dir)}
	b.ID = b.FullName()
	fits := idPattern.MatchString(b.ID) && len(b.ID) <= maxID
	if !fits && section != Services {
		b.ID, fits = mappedID(section, b.Name), true
	}
	b.parsePolicy(nil)
	if !fits {
		return b, fmt.Errorf("%s: the name %q cannot be a container's: use letters, digits and single '.', '_' or '-' between them, 76 at most", dir, b.Name)
	}
	spec := &specs.Spec{}
	if err := readJSON(filepath.Join(dir, "config.json"), spec); err != nil {
		return b, err
	}
	b.parsePolicy(spec.Annotations)
	config := filepath.Join(dir, "config.json")
	switch {
	case spec.Process == nil:
		return b, fmt.Errorf("%s: process is missing: there is nothing to run", config)
	case len(spec.Process.Args) == 0:
		return b, fmt.Errorf("%s: process.args is empty: name the command to run", config)
	case spec.Linux == nil:
		return b, fmt.Errorf("%s: linux is missing: it holds the container's namespaces", config)
	case spec.Root == nil || spec.Root.Path == "":
		return b, fmt.Errorf("%s: root.path is missing: it names the folder of the root file system, usually rootfs", config)
	}
	if err := CheckCgroupsPath(spec.Linux.CgroupsPath); err != nil {
		return b, fmt.Errorf("%s: linux.cgroupsPath: %w", config, err)
	}
	b.Spec = spec
	// runtime.json belongs to LinuxKit's form; a plain OCI bundle has none.
	err := readJSON(filepath.Join(dir, "runtime.json"), &b.Runtime)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if ns := b.Runtime.Namespace; ns != "" && !idPattern.MatchString(ns) {
		return b, fmt.Errorf("%s: namespace %q: use letters, digits and single '.', '_' or '-' between them", filepath.Join(dir, "runtime.json"), ns)
	}
	return b, nil
}

func (b *Bundle) parsePolicy(annotations map[string]string) {
	var problems []policy.Problem
	if b.Section == Services {
		b.Service, problems = policy.ParseService(annotations)
	} else {
		b.OneShot, problems = policy.ParseOneShot(b.Section == Onshutdown, annotations)
	}
	for _, p := range problems {
		b.Warnings = append(b.Warnings, filepath.Join(b.Dir, "config.json")+": "+p.Error())
	}
}

// Walls are what its policy says of its hardening.
func (b *Bundle) Walls() policy.Walls {
	if b.Section == Services {
		return b.Service.Walls
	}
	return b.OneShot.Walls
}

// FullName is the name of the container's output in files and at log sockets: the
// user's, with the section in front of a one-shot's.
func (b *Bundle) FullName() string {
	if b.Section != Services {
		return string(b.Section) + "." + b.Name
	}
	return b.Name
}

// Label is the container's name as the user wrote it, for people to read: a
// one-shot's folder has its place in the order before it.
func (b *Bundle) Label() string {
	if b.Section != Services {
		if n, rest, ok := strings.Cut(b.Name, "-"); ok && len(n) == 3 && strings.Trim(n, "0123456789") == "" && rest != "" {
			return rest
		}
	}
	return b.Name
}

// Control returns what keelson.control says.
func (b *Bundle) Control() policy.Control {
	if b.Section == Services {
		return b.Service.Control
	}
	return b.OneShot.Control
}

// Rootfs returns the absolute path of the container's root file system.
func (b *Bundle) Rootfs() string {
	if b.Spec == nil || b.Spec.Root == nil {
		return filepath.Join(b.Dir, "rootfs")
	}
	if filepath.IsAbs(b.Spec.Root.Path) {
		return b.Spec.Root.Path
	}
	return filepath.Join(b.Dir, b.Spec.Root.Path)
}

// Namespace returns the containerd namespace the container belongs to.
func (b *Bundle) Namespace() string {
	if b.Runtime.Namespace != "" {
		return b.Runtime.Namespace
	}
	return DefaultNamespace
}

// Before compares the places of two containers of a section in the image: as the YAML
// has them where the builder says so, by name where not.
func (b *Bundle) Before(other *Bundle) int {
	place := func(b *Bundle) int {
		if b.Runtime.Order > 0 {
			return b.Runtime.Order
		}
		return math.MaxInt
	}
	return cmp.Or(cmp.Compare(place(b), place(other)), cmp.Compare(b.Name, other.Name))
}

// CgroupsPath returns the container's cgroup, absolute below the cgroup root.
func (b *Bundle) CgroupsPath() string {
	if b.Spec != nil && b.Spec.Linux != nil && b.Spec.Linux.CgroupsPath != "" {
		return filepath.Join("/", b.Spec.Linux.CgroupsPath)
	}
	return filepath.Join(b.Section.Cgroup(), b.Name)
}

// List returns the container folders of a section below root (usually
// /containers), in the order they are run or listed. A section that is not
// there has none.
func List(root string, section Section) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, string(section)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the %s containers: %w", section, err)
	}
	var dirs []string
	for _, e := range entries { // ReadDir sorts by name: LinuxKit's order
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(root, string(section), e.Name()))
		}
	}
	return dirs, nil
}

// readJSON decodes one JSON document and says where it is wrong.
func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err // os names the call and the path
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	err = dec.Decode(into)
	if err == nil {
		if rest := bytes.TrimSpace(data[dec.InputOffset():]); len(rest) > 0 {
			at := bytes.LastIndex(data, rest)
			return fmt.Errorf("%s:%d: more text after the end of the JSON document", path, lineAt(data, int64(at)))
		}
		return nil
	}
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%s:%d: not JSON: %s", path, lineAt(data, syntax.Offset), strings.TrimPrefix(syntax.Error(), "json: "))
	case errors.As(err, &wrong):
		field := wrong.Field
		if field == "" {
			field = "the document"
		}
		return fmt.Errorf("%s:%d: %s is %s, want %s", path, lineAt(data, wrong.Offset), field, valueWord(wrong.Value), kindWord(wrong.Type.Kind().String()))
	case len(bytes.TrimSpace(data)) == 0:
		return fmt.Errorf("%s: empty, want a JSON object", path)
	default:
		return fmt.Errorf("%s: not JSON: the document is cut short (%w)", path, err)
	}
}

// valueWord is the word for a JSON value, as encoding/json names it.
func valueWord(value string) string {
	switch {
	case value == "array":
		return "a list"
	case value == "object":
		return "an object"
	case value == "bool":
		return "true or false"
	case strings.HasPrefix(value, "number "): // a number that does not fit
		return value
	default:
		return "a " + value
	}
}

// kindWord is JSON's word for a Go kind.
func kindWord(kind string) string {
	switch {
	case kind == "slice" || kind == "array":
		return "a list"
	case kind == "struct" || kind == "map" || kind == "ptr":
		return "an object"
	case kind == "bool":
		return "true or false"
	case strings.HasPrefix(kind, "int") || strings.HasPrefix(kind, "uint") || strings.HasPrefix(kind, "float"):
		return "a number"
	default:
		return "a " + kind
	}
}

func lineAt(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(int(offset), len(data))], []byte{'\n'})
}
