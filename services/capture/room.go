package capture

import (
	"path/filepath"

	"keelson/internal/beneath"
)

// keepRoom removes old files where the file system that they are on has little room
// left, the oldest first: logs must not fill what others write to as well. The newest
// of the old ones stays.
func (e *exporter) keepRoom() {
	for i := e.keep - 1; i > 1; i-- {
		// An eighth of it, and what a few files may still grow by.
		free, all, err := e.sys.room(e.dir)
		if err != nil || free >= max(all/8, 2*e.limit) {
			return
		}
		if e.dir.Remove(numbered(filepath.Base(e.path), i)) == nil && e.memory {
			e.sys.shed(e.path, i)
		}
	}
}

// roomOf is how many bytes are free, and how many there are, where a directory is.
func roomOf(dir *beneath.Dir) (free, all int64, err error) {
	fs, err := dir.Statfs()
	if err != nil {
		return 0, 0, err
	}
	return int64(fs.Bavail) * fs.Bsize, int64(fs.Blocks) * fs.Bsize, nil
}
