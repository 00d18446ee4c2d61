package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"keelson/services/store"
)

const (
	rotateBytes = 1 << 20
	rotateKeep  = 10 // with the one that is written
	// knownFiles is how many files a stream remembers: one for each disk that was
	// mounted over another.
	knownFiles = 4
)

// place is a file that a stream's bytes were appended to: byte base+n of the stream
// is byte n of the file.
type place struct {
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
	Base int64  `json:"base"`
}

// position is what the next supervisor has to know: how far a file has come is then
// its size. The newest place is the last one.
type position struct {
	Places []place `json:"places"`
	Pos    int64   `json:"pos"` // of the stream, when this was written
}

// skip notes in the file that the spool has lost what the file should have had.
func (e *exporter) skip(pos, kept int64) error {
	note := fmt.Sprintf("[keelson: %d bytes are missing here: the file could not be written in time]\n", kept-pos)
	n, err := e.file.WriteAt([]byte(note), e.size)
	if err != nil {
		_ = e.file.Truncate(e.size)
		return fmt.Errorf("write %s: %w", e.path, err)
	}
	e.size += int64(n)
	e.mu.Lock()
	e.missing += kept - pos
	missing := e.missing
	now := e.sys.cfg.Now()
	say := !e.failing && (e.missSaid == 0 || now-e.missSaid >= dropWord)
	if say {
		e.missing, e.missSaid = 0, now
	}
	e.mu.Unlock()
	if say {
		e.warn("%d bytes are missing in %s: it could not be written in time", missing, e.path)
	}
	e.move(kept)
	e.save(kept)
	return nil
}

// ensure sees to it that file is the one that path names, and that size is its own.
// Somebody may have moved it away, removed or truncated it, appended to it, or
// mounted a disk over its folder.
func (e *exporter) ensure() error {
	e.looked = e.sys.cfg.Now()
	if e.file != nil {
		var open, named unix.Stat_t
		if err := unix.Fstat(int(e.file.Fd()), &open); err == nil {
			err = unix.Stat(e.path, &named)
			if err == nil && open.Dev == named.Dev && open.Ino == named.Ino || err != nil && !errors.Is(err, unix.ENOENT) {
				if open.Size != e.size { // somebody else's doing
					e.size = open.Size
					e.unsaved = true
				}
				return nil
			}
		}
	}
	e.letGo()
	var f *os.File
	if err := store.InFolder(filepath.Dir(e.path), 0o755, func() (err error) {
		f, err = openLog(e.path)
		return err
	}); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return fmt.Errorf("look at %s: %w", e.path, err)
	}
	was := e.at
	same := e.known && was.Dev == st.Dev && was.Ino == st.Ino // it had only been closed
	e.file, e.at = f, place{Dev: st.Dev, Ino: st.Ino}
	if same {
		e.unsaved = e.unsaved || st.Size != e.size
		e.size = st.Size
	} else {
		e.size = st.Size
		e.place(st)
		e.measure()
	}
	if e.memory && st.Mode&unix.S_IFMT == unix.S_IFREG { // nothing else can be relied on not to wait
		e.folder = openFolder(filepath.Dir(e.path), st.Dev)
	}
	return nil
}

// openFolder opens a folder, if it is on a device. It is no error if it is not.
func openFolder(path string, dev uint64) *os.File {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Dev != dev {
		_ = unix.Close(fd)
		return nil
	}
	return os.NewFile(uintptr(fd), path)
}

// openLog opens a file to be written on, without O_APPEND: sendfile refuses that.
func openLog(path string) (*os.File, error) {
	for { // not os.OpenFile, which tries to have it polled
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// place decides where in the stream the file that was opened goes on.
func (e *exporter) place(st unix.Stat_t) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer func() { e.known, e.unsaved = true, true }()
	kept, _ := e.from.Kept()
	places := e.state.Places
	for i := len(places) - 1; i >= 0; i-- {
		p := places[i]
		last := i == len(places)-1
		switch {
		case p.Dev == st.Dev && p.Ino == st.Ino:
			// It was written to before: by an earlier process, or until something was
			// mounted over it.
			if !e.known || !last {
				e.pos = min(p.Base+st.Size, e.from.End())
			}
			return
		case p.Dev != st.Dev:
			continue
		case last && e.known: // somebody moved the old one away; it goes on
			return
		case last:
			// The earlier process may have died in the middle of a rotation.
			var old unix.Stat_t
			if unix.Stat(numbered(e.path, 1), &old) == nil && old.Dev == p.Dev && old.Ino == p.Ino {
				e.pos = min(p.Base+old.Size, e.from.End())
			}
			return
		}
	}
	if len(places) > 0 {
		e.pos = kept // another disk: it gets all there is
	}
}

// save remembers where the file's bytes are in the stream.
func (e *exporter) save(pos int64) {
	places := make([]place, 0, knownFiles+1)
	for _, p := range e.state.Places {
		if p.Dev != e.at.Dev { // one for each disk
			places = append(places, p)
		}
	}
	places = append(places, place{e.at.Dev, e.at.Ino, pos - e.size})
	e.state = position{Places: places[max(len(places)-knownFiles, 0):], Pos: pos}
	if data, err := json.Marshal(e.state); err == nil && e.from.Remember("export", data) == nil {
		e.unsaved = false
	}
}

// measure finds out how large the file may get where it is.
func (e *exporter) measure() {
	var fs unix.Statfs_t
	e.memory = unix.Fstatfs(int(e.file.Fd()), &fs) == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC)
	e.limit, e.keep = e.sys.sizes(e.memory)
	if e.memory {
		e.sys.hold(e.path, max(e.size, e.limit), e.remove)
	} else {
		e.sys.released(e.path)
	}
}

// numbered is the name of an old file: PATH.1 is the newest one.
func numbered(path string, i int) string { return path + "." + strconv.Itoa(i) }

// rotate moves the full file aside.
func (e *exporter) rotate() error {
	if err := e.shift(unix.AT_FDCWD, e.path); err != nil && !errors.Is(err, unix.ENOENT) { // somebody removed it
		if !e.rotation {
			e.warn("the log grows on: rename %s: %v", e.path, err)
			e.rotation = true
		}
		e.limit = e.size + rotateBytes
		return nil
	}
	e.rotation = false
	if e.memory {
		e.sys.rotated(e.path, e.size)
	}
	e.keepRoom()
	e.letGo()
	e.size, e.at = 0, place{}
	return e.ensure()
}

// shift moves the file and those it was before aside, which have a name in a folder.
func (e *exporter) shift(folder int, name string) error {
	for i := e.keep - 2; i >= 1; i-- {
		err := unix.Renameat(folder, numbered(name, i), folder, numbered(name, i+1))
		if err != nil && i == e.keep-2 {
			_ = unix.Unlinkat(folder, numbered(name, i+1), 0)
		}
	}
	return unix.Renameat(folder, name, folder, numbered(name, 1))
}

// remove removes an old file, of whichever stream.
func (e *exporter) remove(path string, i int) bool {
	_ = os.Remove(numbered(path, i))
	return true
}

// tidy makes room for others.
func (e *exporter) tidy() {
	e.untidy = false
	e.keepRoom()
	if e.memory {
		e.sys.hold(e.path, max(e.size, e.limit), e.remove)
	}
}
