// Package assemble builds the root filesystem that an image YAML describes.
//
// It owns where things lie in it (linuxkit's layout: /containers/SECTION/NAME
// and so on) and which images are stored once. It promises that the same YAML
// with the same images gives the same tree. It leaves names to images, merging
// to tree, and what is in config.json to ocispec.
package assemble

import (
	"context"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"keelson/internal/bundle"
	"keelson/internal/policy"
	"keelson/mkimage/config"
	"keelson/mkimage/images"
	"keelson/mkimage/ocispec"
	"keelson/mkimage/tree"
)

// File is a file that goes beside the root: the kernel, the microcode.
type File struct {
	Size int64
	Open func() (io.ReadCloser, error)
}

// Result is all that a build writes.
type Result struct {
	Root    *tree.Tree
	Kernel  *File // nil without one
	UCode   *File // nil without one
	Cmdline string
	// Containers are in the order of the YAML's sections.
	Containers []Container
	// Inputs are the files that were read, tarballs and sources.
	Inputs []string
}

// Early opens what goes uncompressed in front of an initrd: the microcode, empty without one.
func (r *Result) Early() (io.ReadCloser, error) {
	if r.UCode == nil {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return r.UCode.Open()
}

// Container is a container of the image, as the machine will find it.
type Container struct {
	Bundle *bundle.Bundle // its directory is the one on the machine
	File   string         // the YAML
	Line   int            // of its entry there
	Field  string         // of its entry, such as services[0]
	YAML   config.Container
}

// Options for Build.
type Options struct {
	Config   *config.Config
	Dir      string // that relative sources and images start from, where Config knows none
	Resolver *images.Resolver
	// Step is told of each step, then of the bytes of images that are read in it; nil
	// logs a line.
	Step func(what string, total int64) (count func(n int), done func())
	Log  func(format string, a ...any) // a line on what a step found; may be nil
	Warn func(format string, a ...any) // may be nil
	// Verbose logs what the machine adds to each container.
	Verbose bool
	// NoLabels ignores the labels of all images.
	NoLabels bool
	// MaxSize bounds the bytes that the images unpack to; 0 is tree.DefaultMaxSize.
	MaxSize int64
	// Check may refuse an image before any is used; nil accepts all.
	Check func(name, digest string) error
}

type builder struct {
	Options
	ctx    context.Context
	tree   *tree.Tree
	users  map[string]uint32
	loaded map[images.Ref]*loaded
	placed map[v1.Hash]string        // image to the folder it lies in
	kept   map[string]policy.Service // how each service is to be kept, by its name
	inputs []string
	result *Result
	count  func(n int) // of the present step
	walls  []hardened
}

type loaded struct {
	ref    images.Ref
	image  v1.Image
	digest v1.Hash
	config v1.Config
}

// Build reads every image and puts the root together. Contents are read again
// when the tree is written, so the images must stay where they are until then.
func Build(ctx context.Context, opt Options) (*Result, error) {
	if opt.Log == nil {
		opt.Log = func(string, ...any) {}
	}
	if opt.Warn == nil {
		opt.Warn = func(string, ...any) {}
	}
	if opt.Step == nil {
		opt.Step = func(what string, _ int64) (func(int), func()) {
			opt.Log("%s", what)
			return func(int) {}, func() {}
		}
	}
	b := &builder{
		Options: opt, ctx: ctx, tree: newTree(opt), users: ocispec.Users(opt.Config),
		loaded: map[images.Ref]*loaded{}, placed: map[v1.Hash]string{},
		kept: map[string]policy.Service{},
	}
	b.result = &Result{Root: b.tree, Cmdline: opt.Config.Kernel.Cmdline}
	if err := b.load(); err != nil {
		return nil, err
	}
	for _, step := range []func() error{b.kernel, b.init, b.containers, b.order, b.volumes, b.files, b.targets} {
		if err := step(); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	b.result.Inputs = b.inputs
	return b.result, nil
}

func newTree(opt Options) *tree.Tree {
	t := tree.New()
	if opt.MaxSize > 0 {
		t.SetMaxSize(opt.MaxSize)
	}
	return t
}

// begin begins a step, for which counts what is read of images until done.
func (b *builder) begin(format string, a ...any) (done func()) {
	b.count, done = b.Step(fmt.Sprintf(format, a...), 0)
	return done
}

// use is one place of the YAML that names an image.
type use struct{ field, name string }

func (b *builder) uses() []use {
	c := b.Config
	var list []use
	if c.Kernel.Image != "" {
		list = append(list, use{"kernel.image", c.Kernel.Image})
	}
	for i, name := range c.Init {
		list = append(list, use{fmt.Sprintf("init[%d]", i), name})
	}
	for _, s := range b.sections() {
		for i, image := range s.list {
			list = append(list, use{fmt.Sprintf("%s[%d].image", s.name, i), image.Image})
		}
	}
	for i, v := range c.Volumes {
		if v.Image != "" {
			list = append(list, use{fmt.Sprintf("volumes[%d].image", i), v.Image})
		}
	}
	return list
}

// load finds all images before any is unpacked, and tells of every one that is
// missing.
func (b *builder) load() error {
	var problems config.Problems
	failed := map[images.Ref]bool{}
	for _, u := range b.uses() {
		ref, err := b.ref(u.field, u.name)
		if b.loaded[ref] != nil || failed[ref] {
			continue
		}
		var l *loaded
		if err == nil {
			l, err = b.loadOne(ref)
		}
		if err == nil && b.Check != nil {
			name := l.ref.Name
			if name == "" { // a tarball, by the path in the YAML: the file may lie elsewhere for others
				name = u.name
			}
			err = b.Check(name, l.digest.String())
		}
		if err != nil {
			if b.ctx.Err() != nil {
				return b.ctx.Err()
			}
			failed[ref] = true
			problems = append(problems, b.Config.Problem(u.field, "%v", err))
			continue
		}
		b.loaded[ref] = l
	}
	if len(problems) > 0 {
		return problems
	}
	return nil
}

// dir is the directory that relative paths of a field start from.
func (b *builder) dir(field string) string {
	if dir := b.Config.Dir(field); dir != "" {
		return dir
	}
	return b.Dir
}

// ref is the image that a field names.
func (b *builder) ref(field, name string) (images.Ref, error) {
	return images.ParseRef(name, b.dir(field))
}

// image is the image that a field names, which was loaded before.
func (b *builder) image(field, name string) *loaded {
	ref, err := b.ref(field, name)
	if err != nil {
		return nil
	}
	return b.loaded[ref]
}

func (b *builder) loadOne(ref images.Ref) (*loaded, error) {
	img, err := b.Resolver.Image(b.ctx, ref)
	if err != nil {
		return nil, err
	}
	if ref.Archive != "" {
		b.inputs = append(b.inputs, ref.Archive)
	}
	l := &loaded{ref: ref, image: img}
	if l.digest, err = img.Digest(); err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	if cf.OS != "" && cf.OS != images.Platform.OS || cf.Architecture != "" && cf.Architecture != images.Platform.Architecture {
		return nil, fmt.Errorf("image %s is for %s/%s, must be for %s", ref, cf.OS, cf.Architecture, images.Platform.String())
	}
	l.config = cf.Config
	return l, nil
}

// unpack puts all layers of an image into root.
func (b *builder) unpack(l *loaded, root *tree.Root) error {
	b.tree.NextImage()
	return b.apply(l, root)
}

func (b *builder) apply(l *loaded, root *tree.Root) error {
	layers, err := images.Layers(l.ref.String(), l.image)
	if err != nil {
		return err
	}
	for _, ly := range layers {
		if err := root.Apply(watched{ly, b.ctx, b.count}); err != nil {
			return err
		}
	}
	return nil
}

const (
	defaultKernel = "kernel"
	defaultTar    = "kernel.tar"
)

func (b *builder) kernel() error {
	k := b.Config.Kernel
	if k.Image == "" {
		if k.Tar != nil || k.Binary != "" || k.UCode != nil {
			if k.Tar == nil || *k.Tar != "none" {
				return b.Config.Problem("kernel", "has no image:, the image that the kernel is in")
			}
		}
		return nil
	}
	l := b.image("kernel.image", k.Image)
	defer b.begin("kernel      %s", l.ref)()
	kt := newTree(b.Options)
	root, err := kt.Root("/")
	if err != nil {
		return err
	}
	if err := b.apply(l, root); err != nil {
		return err
	}
	binary := k.Binary
	if binary == "" {
		binary = defaultKernel
	}
	if b.result.Kernel, err = fileOf(root, binary); err != nil {
		return b.Config.Problem("kernel.image", "image %s: %v; with kernel: binary: FILE it may have another name", l.ref, err)
	}
	if k.UCode != nil && *k.UCode != "" {
		if b.result.UCode, err = fileOf(root, *k.UCode); err != nil {
			return b.Config.Problem("kernel.ucode", "image %s: %v", l.ref, err)
		}
	}
	return b.kernelTar(l, root)
}

func (b *builder) kernelTar(l *loaded, root *tree.Root) error {
	name := defaultTar
	if t := b.Config.Kernel.Tar; t != nil {
		name = *t
	}
	if name == "" || name == "none" {
		return nil
	}
	f, err := fileOf(root, name)
	if err != nil {
		return b.Config.Problem("kernel.image", "image %s: %v; say kernel: tar: none if the kernel needs no modules", l.ref, err)
	}
	into, err := b.tree.Root("/")
	if err != nil {
		return err
	}
	b.tree.NextImage()
	return into.Apply(watched{source{fmt.Sprintf("image %s: %s", l.ref, name), f.Open}, b.ctx, b.count})
}

// watched is a source that is read no further once its context is done; count is told
// of bytes.
type watched struct {
	tree.Source
	ctx   context.Context
	count func(n int)
}

func (w watched) Open() (io.ReadCloser, error) {
	rc, err := w.Source.Open()
	return watchedReader{rc, w.ctx, w.count}, err
}

type watchedReader struct {
	io.ReadCloser
	ctx   context.Context
	count func(n int)
}

func (w watchedReader) Read(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.ReadCloser.Read(b)
	w.count(n)
	return n, err
}

// source is a tar inside an image.
type source struct {
	name string
	open func() (io.ReadCloser, error)
}

func (s source) Name() string                 { return s.name }
func (s source) Open() (io.ReadCloser, error) { return s.open() }

func fileOf(root *tree.Root, name string) (*File, error) {
	rc, size, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	if err := rc.Close(); err != nil {
		return nil, err
	}
	return &File{Size: size, Open: func() (io.ReadCloser, error) {
		rc, _, err := root.Open(name)
		return rc, err
	}}, nil
}

func (b *builder) init() error {
	root, err := b.tree.Root("/")
	if err != nil {
		return err
	}
	for i, name := range b.Config.Init {
		l := b.image(fmt.Sprintf("init[%d]", i), name)
		done := b.begin("init        %s", l.ref)
		err := b.unpack(l, root)
		done()
		if err != nil {
			return err
		}
		if err := fixups(root, "/run/resolvconf/resolv.conf"); err != nil {
			return fmt.Errorf("init[%d]: %w", i, err)
		}
	}
	if len(b.Config.Init) > 0 && root.Lookup("init") == nil {
		b.Warn("no image of init: has an /init, so the kernel will find nothing to start")
	}
	return nil
}

// PutBoot puts the kernel, its command line and the microcode into /boot of the
// root, where a tar has them.
func (r *Result) PutBoot() error {
	root, err := r.Root.Root("/")
	if err != nil {
		return err
	}
	if r.Kernel == nil {
		return nil
	}
	if err := root.Put("boot/cmdline", tree.File(0o644, []byte(r.Cmdline))); err != nil {
		return err
	}
	for name, f := range map[string]*File{"boot/kernel": r.Kernel, "boot/ucode.cpio": r.UCode} {
		if f == nil {
			continue
		}
		in := tree.File(0o644, nil)
		in.Size, in.Contents = f.Size, f.Open
		if err := root.Put(name, in); err != nil {
			return err
		}
	}
	return nil
}
