// Package safepath opens paths of the machine, with the machine's rights, where
// containers can change what lies on the way.
//
// A path is walked one component at a time, each opened from the descriptor of the one
// before it. It promises that
//
//   - a symbolic link is followed only in a directory that no service can write, or where
//     its contents are what the machine itself makes (/var/run);
//   - a link anywhere else is an error that names it and who can write there;
//   - what it returns is a descriptor: a name that is swapped later changes nothing.
//
// In a container's root (In) links are followed as the container would: they never lead out.
//
// It must never open a file for reading or writing, as a FIFO or a device would notice.
package safepath

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many links are followed on one way, as the kernel has it.
const maxLinks = 40

// LinkError is a symbolic link on the way that somebody may have put there.
type LinkError struct {
	Path   string // the link
	Target string // what it says
	By     string // who can write its directory
}

func (e *LinkError) Error() string {
	return fmt.Sprintf("%s: symbolic link (to %s) in a directory that %s can write: give the path it leads to by its own name, or remove the link", e.Path, e.Target, e.By)
}

// made are the links that the machine and LinuxKit's images have: whoever made one with
// the same contents changed nothing.
var made = map[string]string{
	"/var/run": "/run", "/etc/resolv.conf": "/run/resolvconf/resolv.conf", "/etc/mtab": "/proc/mounts",
	"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	"/var/log/onboot": "/run/log/onboot", "/var/log/onshutdown": "/run/log/onshutdown",
}

// Place is where a path leads.
type Place struct {
	// FD is an O_PATH descriptor of the file, of the topmost mount there; -1 if it is not there.
	FD int
	// Dir is the directory that Name, the file's own name, is in; -1 for the root. Of a
	// file that is not there, Name is the first name on the way that is missing.
	Dir  int
	Name string
	// Path is the path without links, for messages and for where nobody can change it.
	Path string
	// By says who can change what the path leads to; "" for nobody.
	By   string
	stat stat
	part part
}

// Exists reports whether the file is there.
func (p *Place) Exists() bool { return p.FD >= 0 }

// IsDir reports whether it is a directory.
func (p *Place) IsDir() bool { return p.stat.kind == unix.S_IFDIR }

// Proc is a path that leads to the file itself whatever happens to its names.
func (p *Place) Proc() string { return Proc(p.FD) }

// ProcName is the file's name in the directory that it was found in.
func (p *Place) ProcName() string { return Proc(p.Dir) + "/" + p.Name }

// Proc is a path that leads to what a descriptor of this process has open.
func Proc(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// Close closes the descriptors.
func (p *Place) Close() {
	for _, fd := range []*int{&p.FD, &p.Dir} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

// Resolver resolves paths, for one start of a container and in one goroutine. A nil one
// knows no writers.
type Resolver struct {
	load    func() *Writers // nil for none
	fresh   bool
	writers *Writers // once loaded
	names   bool     // go by the names of what services can write alone
}

// file names a file of the machine.
type file struct{ dev, ino uint64 }

// stat is what is known of a file.
type stat struct {
	file
	kind    uint32 // S_IFMT
	isMount bool   // the root of a mount, where the kernel (5.8) tells
	mount   uint64
}

// look finds out about an open file.
func look(fd int) (stat, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE|unix.STATX_INO|unix.STATX_MNT_ID, &st); err != nil {
		return stat{}, err
	}
	return stat{
		file: file{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}, kind: uint32(st.Mode) & unix.S_IFMT,
		isMount: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, mount: st.Mnt_id,
	}, nil
}

// NewResolver returns a resolver, which asks for the writers when it is first used. A
// fresh one looks for their directories again, as is needed while the machine is set up;
// after that Bound is enough.
func NewResolver(writers func() *Writers, fresh bool) *Resolver {
	return &Resolver{load: writers, fresh: fresh}
}

// Bound tells that a service is about to be started with the file at the path bound, which
// may be another one than at the last time.
func (r *Resolver) Bound(path string, p *Place) {
	if r != nil && r.writers != nil && p.Exists() {
		r.writers.bound(filepath.Clean(path), p.stat.file)
	}
}

// Options says how a path is resolved.
type Options struct {
	// Make makes the directories that are missing, with mode 0755, the last one too.
	Make bool
	// MakeFile makes the last one an empty file instead.
	MakeFile bool
	// Made is called with each directory or file that was made.
	Made func(fd int) error
}

// Open resolves an absolute path. A file that is missing is no error: the place says so,
// and By whether somebody can change that. The caller closes the place.
func (r *Resolver) Open(path string, o Options) (*Place, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%q is not absolute", path)
	}
	if r == nil {
		r = &Resolver{}
	}
	if r.load != nil && r.writers == nil {
		if r.writers = r.load(); r.writers != nil {
			r.writers.learn(r.fresh)
		}
	}
	return r.open("/", path, o, false)
}

// In resolves a path in the root file system of a container: links on its way are the
// container's, and lead to nothing outside. By is never empty: the container can change it.
func (r *Resolver) In(root, path string, o Options) (*Place, error) {
	if r == nil {
		r = &Resolver{}
	}
	return r.open(root, path, o, true)
}

func (r *Resolver) open(root, path string, o Options, scoped bool) (*Place, error) {
	w := walk{resolver: r, scoped: scoped, todo: strings.Split(path, "/"), options: o}
	defer w.close()
	if err := w.begin(root); err != nil {
		return nil, err
	}
	for len(w.todo) > 0 {
		if err := w.step(); err != nil {
			return nil, err
		}
		if w.missing {
			break
		}
	}
	return w.place(), nil
}

// writer returns who can write in the directory.
func (r *Resolver) writer(d *at) string {
	if r.writers == nil {
		return ""
	}
	if who := r.writers.by[d.path]; who != "" || r.names {
		return who
	}
	return r.writers.of(d)
}

// at is one directory on the way.
type at struct {
	fd   int
	path string
	by   string // who can change what is in it
	stat stat
	part part
}

// walk is a walk on its way.
type walk struct {
	resolver *Resolver
	scoped   bool // links never lead out of the root
	options  Options
	todo     []string
	stack    []at // from the root to here
	links    int
	missing  bool // the last component is not there
	last     string
}

func (w *walk) close() {
	for _, d := range w.stack {
		if d.fd >= 0 {
			_ = unix.Close(d.fd)
		}
	}
}

func (w *walk) here() *at { return &w.stack[len(w.stack)-1] }

func (w *walk) begin(root string) error {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", root, err)
	}
	d := at{fd: fd, path: root}
	if d.stat, err = look(fd); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("stat %s: %w", root, err)
	}
	d.part = partOf(&d, nil)
	if w.scoped {
		d.by = "the container"
	} else {
		d.by = w.resolver.writer(&d)
	}
	w.stack = append(w.stack, d)
	return nil
}

// step takes the next component.
func (w *walk) step() error {
	name := w.todo[0]
	w.todo = w.todo[1:]
	switch name {
	case "", ".":
		return nil
	case "..":
		if len(w.stack) > 1 {
			_ = unix.Close(w.here().fd)
			w.stack = w.stack[:len(w.stack)-1]
		}
		return nil
	}
	dir := w.here()
	path := filepath.Join(dir.path, name)
	fd, err := unix.Openat(dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		if fd, err = w.makeOne(dir, name, path); err == nil && fd < 0 {
			w.missing, w.last = true, name
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	next := at{fd: fd, path: path}
	if next.stat, err = look(fd); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("stat %s: %w", path, err)
	}
	if next.stat.kind == unix.S_IFLNK {
		defer func() { _ = unix.Close(fd) }()
		return w.follow(dir, name, &next)
	}
	next.part = partOf(&next, dir)
	if next.by = dir.by; next.by == "" {
		next.by = w.resolver.writer(&next)
	}
	w.stack = append(w.stack, next)
	return nil
}

// follow goes on where a link leads, if it may.
func (w *walk) follow(dir *at, name string, link *at) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(link.fd, "", buf)
	if err != nil {
		return fmt.Errorf("readlink %s: %w", link.path, err)
	}
	target := string(buf[:n])
	if !w.scoped && dir.by != "" && made[link.path] != target {
		return &LinkError{Path: link.path, Target: target, By: dir.by}
	}
	if w.links++; w.links > maxLinks {
		return fmt.Errorf("open %s: %w", link.path, unix.ELOOP)
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(link.fd, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC && !ordinary(target) {
		return w.jump(dir, name, link)
	}
	w.todo = append(strings.Split(target, "/"), w.todo...)
	if filepath.IsAbs(target) {
		for _, d := range w.stack[1:] {
			_ = unix.Close(d.fd)
		}
		w.stack = w.stack[:1]
	}
	return nil
}

// ordinary reports whether a link in /proc is one by its name (self, mounts): the others
// lead to what a process has open, whatever they read as.
func ordinary(target string) bool {
	return strings.HasPrefix(target, "self") || strings.HasPrefix(target, "thread-self") || strings.HasSuffix(target, "/task") ||
		strings.Trim(target, "0123456789") == "" && target != ""
}

// jump follows a link of /proc to what a process has open: a namespace, or a directory
// that may be anywhere. From there on no link is followed.
func (w *walk) jump(dir *at, name string, link *at) error {
	if w.scoped {
		return fmt.Errorf("%s: a link of /proc leads out of the container's root: name a path in it", link.path)
	}
	fd, err := unix.Openat(dir.fd, name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", link.path, err)
	}
	next := at{fd: fd, path: link.path, by: "the process of " + link.path}
	if next.stat, err = look(fd); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("stat %s: %w", link.path, err)
	}
	w.stack = append(w.stack, next)
	return nil
}

// makeOne makes what is missing, if that is asked for; -1 is nothing.
func (w *walk) makeOne(dir *at, name, path string) (int, error) {
	if !w.options.Make {
		return -1, nil
	}
	var err error
	asFile := w.options.MakeFile && strings.Join(w.todo, "") == ""
	if asFile {
		var fd int
		if fd, err = unix.Openat(dir.fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644); err == nil {
			_ = unix.Close(fd)
		}
	} else {
		err = unix.Mkdirat(dir.fd, name, 0o755)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, fmt.Errorf("make %s: %w", path, err)
	}
	fd, openErr := unix.Openat(dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if openErr == nil && err == nil && w.options.Made != nil {
		if err := w.options.Made(fd); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
	}
	return fd, openErr
}

// place hands out where the walk has come to.
func (w *walk) place() *Place {
	top := w.here()
	if w.missing {
		p := &Place{FD: -1, Dir: top.fd, Name: w.last, Path: filepath.Join(append([]string{top.path, w.last}, w.todo...)...), By: top.by}
		top.fd = -1
		return p
	}
	p := &Place{FD: top.fd, Dir: -1, Path: top.path, stat: top.stat, part: top.part}
	top.fd = -1
	if len(w.stack) > 1 {
		above := &w.stack[len(w.stack)-2]
		p.Dir, p.Name, p.By = above.fd, filepath.Base(top.path), above.by
		above.fd = -1
	}
	return p
}
