package safepath

import (
	"path/filepath"
	"sync"

	"github.com/moby/sys/mountinfo"
)

// part is a directory by where it is in its file system, which may be mounted at several
// places, and some of those may show a part of it. The zero value is not known.
type part struct {
	dev  uint64
	path string
}

// roots remembers what part of its file system a mount shows, by the directory that it
// shows: there is nothing to be asked about those of the machine after the first time.
var roots struct {
	sync.Mutex
	of map[file]string
}

// partOf returns where a directory is in its file system. above is the one that it was
// found in, nil for none.
func partOf(d, above *at) part {
	switch {
	case d.stat.isMount:
		return part{d.stat.dev, rootOf(d.stat)}
	case above == nil || above.part.path == "" || above.stat.dev != d.stat.dev:
		return part{}
	}
	return part{d.stat.dev, filepath.Join(above.part.path, filepath.Base(d.path))}
}

// rootOf returns what part of its file system a mount shows, "" where that is not known.
func rootOf(st stat) string {
	roots.Lock()
	defer roots.Unlock()
	if root, known := roots.of[st.file]; known {
		return root
	}
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return uint64(m.ID) != st.mount, uint64(m.ID) == st.mount
	})
	if err != nil || len(infos) == 0 {
		return ""
	}
	if roots.of == nil {
		roots.of = map[file]string{}
	}
	roots.of[st.file] = infos[0].Root
	return infos[0].Root
}
