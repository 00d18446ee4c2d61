package safepath

import (
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// found is where the directories that services can write were found: another mount of one
// of them has another name.
type found struct {
	mu      sync.Mutex
	learned bool
	files   map[string]file // by the directories' names, guarded by mu
	here    map[file]string // who can write it, guarded by mu
	parts   map[part]string // the same by where they are in their file systems; nil until asked for; guarded by mu
}

// learn finds the directories, if that was not done before or is to be done anew.
func (w *Writers) learn(anew bool) {
	w.found.mu.Lock()
	defer w.found.mu.Unlock()
	if w.found.learned && !anew {
		return
	}
	w.found.learned, w.found.parts = true, nil
	w.found.files, w.found.here = map[string]file{}, map[file]string{}
	for _, dir := range w.binds {
		if st, ok := w.find(dir); ok {
			w.found.files[dir], w.found.here[st.file] = st.file, w.by[dir]
		}
	}
	for device, who := range w.devices {
		var st unix.Stat_t
		if unix.Stat(device, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			w.found.here[file{dev: st.Rdev}] = who
		}
	}
}

// find looks at one of the directories, through no link that a service can have made.
func (w *Writers) find(dir string) (stat, bool) {
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if err == nil {
		defer unix.Close(fd)
		st, err := look(fd)
		return st, err == nil
	}
	// With a link on its way, or a kernel before 5.6: the same, one by one.
	p, err := w.byName(dir)
	if err != nil {
		return stat{}, false // or nobody has it bound
	}
	defer p.Close()
	return p.stat, p.Exists()
}

// byName opens one of the directories.
func (w *Writers) byName(dir string) (*Place, error) {
	return (&Resolver{writers: w, names: true}).open("/", dir, Options{}, false)
}

// bound notes which file one of the directories is now.
func (w *Writers) bound(dir string, now file) {
	who := w.by[dir]
	w.found.mu.Lock()
	defer w.found.mu.Unlock()
	if was, there := w.found.files[dir]; who == "" || there && was == now {
		return
	} else if there {
		delete(w.found.here, was)
	}
	w.found.files[dir], w.found.here[now], w.found.parts = now, who, nil
}

// of returns who can write in a directory, whatever its name.
func (w *Writers) of(d *at) string {
	w.found.mu.Lock()
	defer w.found.mu.Unlock()
	if who := w.found.here[d.stat.file]; who != "" {
		return who
	}
	if d.stat.isMount && d.part.path != "/" && d.part.path != "" {
		if who := w.above(d.part); who != "" {
			return who
		}
	}
	return w.found.here[file{dev: d.stat.dev}]
}

// above returns who can write a directory above one that is mounted apart from it.
// It is called with mu held.
func (w *Writers) above(d part) string {
	if w.found.parts == nil {
		w.found.parts = map[part]string{}
		for _, dir := range w.binds {
			p, err := w.byName(dir)
			if err != nil {
				continue
			}
			if p.Exists() && p.part.path != "" {
				w.found.parts[p.part] = w.by[dir]
			}
			p.Close()
		}
	}
	for at, who := range w.found.parts {
		if at.dev == d.dev && (at.path == "/" || strings.HasPrefix(d.path, at.path+"/")) {
			return who
		}
	}
	return ""
}
