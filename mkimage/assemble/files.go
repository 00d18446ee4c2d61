package assemble

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"keelson/mkimage/config"
	"keelson/mkimage/images"
	"keelson/mkimage/ocispec"
	"keelson/mkimage/regular"
	"keelson/mkimage/sparse"
	"keelson/mkimage/tree"
)

func (b *builder) files() error {
	root, err := b.tree.Root("/")
	if err != nil {
		return err
	}
	for i, f := range b.Config.Files {
		field := fmt.Sprintf("files[%d]", i)
		if err := b.file(root, field, f); err != nil {
			return b.Config.Problem(field, "%s: %v", f.Path, err)
		}
	}
	return nil
}

func (b *builder) file(root *tree.Root, field string, f config.File) error {
	mode := int64(0o600)
	if f.Directory {
		mode = 0o700
	}
	if f.Mode != "" {
		m, err := strconv.ParseInt(f.Mode, 8, 32)
		if err != nil {
			return fmt.Errorf("mode %q must be octal, such as \"0644\"", f.Mode)
		}
		mode = m
	}
	in := &tree.Inode{Mode: mode}
	uid, err := ocispec.Number(idOf(f.UID), b.users)
	if err != nil {
		return fmt.Errorf("uid: %w", err)
	}
	gid, err := ocispec.Number(idOf(f.GID), b.users)
	if err != nil {
		return fmt.Errorf("gid: %w", err)
	}
	in.UID, in.GID = int(uid), int(gid)
	switch {
	case f.Directory:
		in.Type = tree.Dir(0).Type
	case f.Symlink != "":
		in.Type, in.Target, in.Mode = tree.Symlink("").Type, f.Symlink, 0o777
	default:
		if err := b.contents(field, f, in); err != nil {
			if f.Optional && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
				return nil
			}
			return err
		}
	}
	if err := fits(root, f.Path, in); err != nil {
		return err
	}
	if err := parents(root, f.Path, mode, in); err != nil {
		return err
	}
	return root.Put(f.Path, in)
}

// idOf is the user or group of a file; root where the YAML names none.
func idOf(id *config.ID) config.ID {
	if id == nil {
		return config.ID{}
	}
	return *id
}

// fits refuses an entry that would take something of an image away to make
// place for itself: a file for a folder, or a folder with all that is in it.
func fits(root *tree.Root, name string, in *tree.Inode) error {
	name = path.Clean("/" + name)
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		if root.Exists(dir) && !root.IsDir(dir) {
			return fmt.Errorf("%s is a file already, so nothing can lie in it", dir)
		}
	}
	switch old := root.Lookup(name); {
	case old == nil:
	case in.IsDir() && root.Exists(name) && !root.IsDir(name):
		return errors.New("there is a file of this name already, so it cannot be a folder")
	case old.IsDir() && in.Type == tree.File(0, nil).Type && !root.Empty(name):
		return errors.New("there is a folder with files of this name already, so it cannot be a file")
	}
	return nil
}

func (b *builder) contents(field string, f config.File, in *tree.Inode) error {
	in.Type = tree.File(0, nil).Type
	var text []byte
	switch {
	case f.Contents != nil:
		text = []byte(*f.Contents)
	case f.Metadata != "":
		var err error
		if text, err = b.metadata(f.Metadata); err != nil {
			return err
		}
	default:
		return b.source(b.dir(field), f.Source, in)
	}
	in.Size, in.Contents = int64(len(text)), tree.Bytes(text)
	return nil
}

// source reads a file of the machine that builds, when the tree is written.
func (b *builder) source(dir, name string, in *tree.Inode) error {
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return err
		}
		name = filepath.Join(home, rest)
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	f, err := regular.Open(name)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if n, _ := f.Read(make([]byte, 1)); n > int(fi.Size()) {
		return fmt.Errorf("source: %s has no size, as files of /proc have none; copy it to a file (cat %[1]s >FILE), and name that", name)
	}
	b.inputs = append(b.inputs, name)
	in.Size = fi.Size()
	if in.Data, err = sparse.Of(f, in.Size); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	in.Contents = func() (io.ReadCloser, error) { return regular.Open(name) }
	return nil
}

// parents makes the folders on the way to a file that no image has, with the
// file's owner and its mode plus search permission.
func parents(root *tree.Root, name string, mode int64, in *tree.Inode) error {
	for _, class := range []int64{0o700, 0o070, 0o007} {
		if mode&class != 0 {
			mode |= class & 0o111
		}
	}
	var missing []string
	for dir := path.Dir(path.Clean("/" + name)); dir != "/" && !root.Exists(dir); dir = path.Dir(dir) {
		missing = append(missing, dir)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		d := tree.Dir(mode)
		d.UID, d.GID = in.UID, in.GID
		if err := root.Put(missing[i], d); err != nil {
			return err
		}
	}
	return nil
}

// metadata returns the whole configuration with the names of images expanded.
func (b *builder) metadata(format string) ([]byte, error) {
	c := *b.Config
	expand := func(name string) string {
		if ref, err := images.ParseRef(name, ""); err == nil && ref.Archive == "" {
			return ref.Name
		}
		return name
	}
	if c.Kernel.Image != "" {
		c.Kernel.Image = expand(c.Kernel.Image)
	}
	c.Init = nil
	for _, name := range b.Config.Init {
		c.Init = append(c.Init, expand(name))
	}
	for _, list := range []*[]*config.Image{&c.Onboot, &c.Onshutdown, &c.Services} {
		var out []*config.Image
		for _, image := range *list {
			i := *image
			i.Image = expand(i.Image)
			out = append(out, &i)
		}
		*list = out
	}
	if format == "json" {
		return json.MarshalIndent(&c, "", "    ")
	}
	return yaml.Marshal(&c)
}
