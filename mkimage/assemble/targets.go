package assemble

import (
	"maps"
	"path"
	"slices"
	"strings"

	"keelson/internal/bundle"
	"keelson/mkimage/tree"
	"keelson/mkimage/view"
)

// Bundles returns the containers as the machine will load them.
func (r *Result) Bundles() []*bundle.Bundle {
	var list []*bundle.Bundle
	for _, c := range r.Containers {
		list = append(list, c.Bundle)
	}
	return list
}

// targets makes what is mounted on, and what runtime sections make, where the machine
// cannot: in images that are read-only, and in the machine's root.
func (b *builder) targets() error {
	machine, err := view.NewMachine(b.tree, b.result.Bundles())
	if err != nil {
		return err
	}
	for _, c := range b.result.Containers {
		made := map[string]bool{} // by the path on the machine or in the container; whether a directory
		for _, need := range machine.Needed {
			if need.Bundle == c.Bundle {
				made[need.Target.Path] = need.Dir
			}
		}
		if err := b.put("/", made); err != nil {
			return b.Config.Problem(c.Field, "%v", err)
		}
		if c.Bundle.Spec.Root.Readonly {
			inImage, err := b.inImage(machine, c.Bundle)
			if err != nil {
				return b.Config.Problem(c.Field, "%v", err)
			}
			maps.Copy(made, inImage)
		}
		if len(made) > 0 {
			b.Log("%-11s %s  made, as the machine cannot: %s", c.Bundle.Section, c.Bundle.Name, strings.Join(slices.Sorted(maps.Keys(made)), ", "))
		}
	}
	return nil
}

// inImage makes in a container's image what is mounted on and is not there, and the
// directory that its command starts in.
func (b *builder) inImage(machine *view.Machine, c *bundle.Bundle) (map[string]bool, error) {
	in, err := machine.Container(b.tree, c)
	if err != nil {
		return nil, err
	}
	made := map[string]bool{}
	need := func(f view.Found, dir bool) {
		if f.State == view.Missing && f.Place == view.Image {
			made[f.Path] = dir
		}
	}
	for _, m := range in.Made {
		need(m.Target, m.Dir)
	}
	for _, m := range in.Mounts {
		need(m.Target, !m.Bind || view.IsDir(m.Source))
	}
	if path.IsAbs(c.Spec.Process.Cwd) {
		need(in.Find(c.Spec.Process.Cwd), true)
	}
	dir, _ := view.Files(c)
	return made, b.put(dir, made)
}

// put makes empty directories and files below dir, which is in the tree.
func (b *builder) put(dir string, made map[string]bool) error {
	if len(made) == 0 {
		return nil
	}
	root, err := b.tree.Root(dir)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(made)) {
		in := tree.File(0o644, nil)
		if made[name] {
			in = tree.Dir(0o755)
		}
		if err := root.Put(name, in); err != nil {
			return err
		}
	}
	return nil
}
