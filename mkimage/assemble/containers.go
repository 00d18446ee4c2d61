package assemble

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/bundle"
	"keelson/internal/harden"
	"keelson/internal/policy"
	"keelson/internal/userns"
	"keelson/mkimage/config"
	"keelson/mkimage/label"
	"keelson/mkimage/ocispec"
	"keelson/mkimage/tree"
)

type section struct {
	name     string
	numbered bool
	list     []*config.Image
}

func (b *builder) sections() []section {
	c := b.Config
	return []section{{"onboot", true, c.Onboot}, {"onshutdown", true, c.Onshutdown}, {"services", false, c.Services}}
}

func (b *builder) containers() error {
	for _, s := range b.sections() {
		for i, image := range s.list {
			dir := path.Join("containers", s.name, image.Name)
			if s.numbered {
				dir = path.Join("containers", s.name, fmt.Sprintf("%03d-%s", i, image.Name))
			}
			field := fmt.Sprintf("%s[%d]", s.name, i)
			place := 0 // a one-shot's is in its directory's name
			if !s.numbered {
				place = i + 1
			}
			done := b.begin("%-11s %s  %s", s.name, image.Name, b.image(field, image.Image).ref)
			err := b.container(s.name, field, dir, place, image)
			done()
			if err != nil {
				var p config.Problem
				var ps config.Problems
				if errors.As(err, &p) || errors.As(err, &ps) {
					return err
				}
				return b.Config.Problem(field, "%v", err)
			}
		}
	}
	reportHardening(b.walls, b.Verbose, b.Log)
	return nil
}

func (b *builder) container(section, field, dir string, place int, image *config.Image) error {
	l := b.image(field, image.Image)
	label, err := b.label(l, section, field, image)
	if err != nil {
		return err
	}
	spec, err := ocispec.Spec(ocispec.Inputs{
		YAML: image.Container, Label: label, Image: l.config, Users: b.users, Volumes: b.volumeFolders(),
	})
	if err != nil {
		return err
	}
	if err := b.checkUsers(field, spec); err != nil {
		return err
	}
	walls := b.policy(section, image.Name, spec)
	if err := b.harden(field, image.Name, walls, spec); err != nil {
		return err
	}
	mounts, err := b.rootfs(l, dir, spec.Root.Readonly)
	if err != nil {
		return err
	}
	root, err := b.tree.Root(dir)
	if err != nil {
		return err
	}
	if err := putJSON(root, "config.json", spec); err != nil {
		return err
	}
	runtime := ocispec.Runtime(image.Runtime, label.Runtime, mounts)
	if err := b.note(section, field, dir, image, spec, runtime); err != nil {
		return err
	}
	return putJSON(root, "runtime.json", placed{runtime, place})
}

// placed is a runtime.json with the container's place among those of its section.
type placed struct {
	config.Runtime
	Order int `json:"order,omitempty"`
}

// label reads the label of a container's image, and logs what it gives that the YAML
// does not state, or that it is ignored.
func (b *builder) label(l *loaded, section, field string, image *config.Image) (config.Container, error) {
	text := l.config.Labels[config.Label]
	if text == "" {
		return config.Container{}, nil
	}
	var names []string
	for n := range b.users {
		names = append(names, n)
	}
	what := fmt.Sprintf("image %s: label %s", l.ref, config.Label)
	c, err := config.ParseLabel(what, section, names, text)
	if b.NoLabels {
		if err != nil {
			b.Log("%-11s %s  label ignored; it could not be used: %v", section, image.Name, err)
		} else if lost := label.Lost(image.Container, c); len(lost) > 0 {
			b.Log("%-11s %s  label ignored: %s", section, image.Name, strings.Join(lost, ", "))
		}
		return config.Container{}, nil
	}
	if err != nil {
		return c, b.ofLabel(field, err)
	}
	if grants := label.Grants(image.Container, c); len(grants) > 0 {
		b.Log("%-11s %s  label grants: %s", section, image.Name, strings.Join(grants, ", "))
	}
	return c, nil
}

// ofLabel gives the mistakes of a label the place in the YAML where its image is named.
func (b *builder) ofLabel(field string, err error) error {
	var all config.Problems
	if !errors.As(err, &all) {
		return b.Config.Problem(field+".image", "%v", err)
	}
	placed := make(config.Problems, len(all))
	for i, p := range all {
		placed[i] = b.Config.Problem(field+".image", "%v", p)
	}
	return placed
}

// note keeps a container for those who judge the image.
func (b *builder) note(section, field, dir string, image *config.Image, spec *specs.Spec, runtime config.Runtime) error {
	c := &bundle.Bundle{Dir: "/" + dir, Section: bundle.Section(section), Name: image.Name, ID: image.Name, Spec: spec}
	text, err := json.Marshal(runtime)
	if err == nil {
		err = json.Unmarshal(text, &c.Runtime)
	}
	if err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	if c.Section == bundle.Services {
		c.Service = b.kept[image.Name]
	} else {
		c.OneShot, _ = policy.ParseOneShot(c.Section == bundle.Onshutdown, spec.Annotations)
	}
	at := b.Config.Problem(field, "")
	b.result.Containers = append(b.result.Containers, Container{Bundle: c, File: at.File, Line: at.Line, Field: field, YAML: image.Container})
	return nil
}

// checkUsers refuses users that a container's user namespace would not have.
// YAML and label have been put together by now, and one may say what the other
// does not.
func (b *builder) checkUsers(field string, spec *specs.Spec) error {
	var problems config.Problems
	for _, p := range userns.Check(spec) {
		problems = append(problems, b.problem(field, p.Key, p.Text))
	}
	if len(problems) > 0 {
		return problems
	}
	return nil
}

// problem is one of a container's field, be it of the YAML or of the image's label.
func (b *builder) problem(field, key, text string) config.Problem {
	problem := b.Config.Problem(field+"."+key, "%s", text)
	if problem.Line == 0 {
		problem = b.Config.Problem(field, "%s of its image: %s", key, text)
	}
	return problem
}

// policy reads a container's annotations, of which problems were reported with the
// YAML or the label, and returns what they say of its hardening.
func (b *builder) policy(section, name string, spec *specs.Spec) policy.Walls {
	if section == "services" {
		p, _ := policy.ParseService(spec.Annotations)
		b.kept[name] = p
		return p.Walls
	}
	p, _ := policy.ParseOneShot(section == "onshutdown", spec.Annotations)
	return p.Walls
}

// harden notes what the machine will add to a container's configuration, and
// refuses one that lacks what its level demands.
func (b *builder) harden(field, name string, walls policy.Walls, spec *specs.Spec) error {
	var problems config.Problems
	for _, d := range harden.Check(spec, walls.Harden) {
		problem := b.Config.Problem(field+"."+d.Field, "%s", d.Text)
		if problem.Line == 0 { // it is nowhere yet
			problem = b.Config.Problem(field, "%s: %s", d.Field, d.Text)
		}
		problems = append(problems, problem)
	}
	if len(problems) > 0 {
		return problems
	}
	_, added := harden.Apply(spec, walls.Harden, harden.Options{LogOnly: walls.SeccompLog})
	words := make([]string, len(added))
	for i, a := range added {
		words[i] = string(a)
	}
	b.walls = append(b.walls, hardened{name, walls.Harden, strings.Join(words, ", ")})
	return nil
}

// order refuses services that wait for one another or for one that is not there.
// It is known only now that labels and YAML have been put together.
func (b *builder) order() error {
	var problems config.Problems
	for _, p := range policy.Order(b.kept) {
		i := slices.IndexFunc(b.Config.Services, func(s *config.Image) bool { return s.Name == p.Service })
		field := fmt.Sprintf("services[%d]", i)
		problem := b.Config.Problem(field+".annotations."+p.Key, "%q: %s", p.Value, p.Want)
		if problem.Line == 0 {
			problem = b.Config.Problem(field, "annotation %s of its image: %q: %s", p.Key, p.Value, p.Want)
		}
		problems = append(problems, problem)
	}
	if len(problems) > 0 {
		slices.SortStableFunc(problems, func(a, b config.Problem) int { return a.Line - b.Line })
		return problems
	}
	return nil
}

func putJSON(root *tree.Root, name string, v any) error {
	text, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		return err
	}
	return root.Put(name, tree.File(0o644, text))
}

// rootfs unpacks the image of a container, unless another container has it
// already, and returns the mounts that make its root of it.
func (b *builder) rootfs(l *loaded, dir string, readonly bool) ([]specs.Mount, error) {
	where := path.Join(dir, "lower")
	if readonly {
		where = path.Join(dir, "rootfs")
	}
	if have, ok := b.placed[l.digest]; ok {
		where = have
	} else {
		root, err := b.tree.Root(where)
		if err != nil {
			return nil, err
		}
		if err := b.unpack(l, root); err != nil {
			return nil, err
		}
		if err := fixups(root, ""); err != nil {
			return nil, err
		}
		b.placed[l.digest] = where
	}
	rootfs := "/" + path.Join(dir, "rootfs")
	if _, err := b.tree.Root(rootfs); err != nil {
		return nil, err
	}
	if readonly {
		return []specs.Mount{{Source: "/" + where, Destination: rootfs, Options: []string{"bind"}}}, nil
	}
	tmp := "/" + path.Join(dir, "tmp")
	if _, err := b.tree.Root(tmp); err != nil {
		return nil, err
	}
	return []specs.Mount{
		{Source: "tmpfs", Type: "tmpfs", Destination: tmp},
		// Private, as nothing else needs to see the layers.
		{Destination: tmp, Options: []string{"remount", "private"}},
		{Source: "overlay", Type: "overlay", Destination: rootfs, Options: []string{
			"lowerdir=/" + where, "upperdir=" + path.Join(tmp, "upper"), "workdir=" + path.Join(tmp, "work"),
		}},
	}, nil
}

// hosts is the /etc/hosts of every image.
const hosts = `127.0.0.1       localhost
::1     localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
`

const noResolvConf = "\n# no resolv.conf configured\n"

// fixups does to an unpacked image what container engines, and LinuxKit, do
// when they run one: files that belong to the machine and not to the image are
// taken out or replaced, folders that are mounted over are there. resolv is
// where /etc/resolv.conf points to; a file that says nothing if empty.
func fixups(root *tree.Root, resolv string) error {
	for _, name := range []string{".dockerenv", "Dockerfile", "dev/console", "dev/pts", "dev/shm", "etc/hostname"} {
		if in := root.Lookup(name); in != nil && !in.IsDir() {
			root.Remove(name)
		}
	}
	for _, name := range []string{"dev", "dev/pts", "dev/shm", "etc", "proc", "sys"} {
		if !root.Exists(name) {
			if err := root.Put(name, tree.Dir(0o755)); err != nil {
				return err
			}
		}
	}
	if root.Lookup("etc/mtab") == nil {
		if err := root.Put("etc/mtab", tree.Symlink("/proc/mounts")); err != nil {
			return err
		}
	}
	if err := root.Put("etc/hosts", tree.File(0o644, []byte(hosts))); err != nil {
		return err
	}
	conf := tree.File(0o644, []byte(noResolvConf))
	if resolv != "" {
		conf = tree.Symlink(resolv)
	}
	return root.Put("etc/resolv.conf", conf)
}
