package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
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
// Somebody may have moved it away, removed or truncated it, appended to it, put something
// else in its place, or mounted a disk over its directory.
func (e *exporter) ensure() error {
	e.looked = e.sys.cfg.Now()
	dir, err := e.sys.cfg.Links.Make(filepath.Dir(e.path), 0o755)
	if e.file != nil && e.isNamed(dir, err) {
		if err == nil {
			_ = e.dir.Close()
			e.dir = dir
		}
		return nil
	}
	e.letGo()
	if err != nil {
		return e.inTheWay(err)
	}
	f, err := e.openLog(dir)
	if err != nil {
		_ = dir.Close()
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_, _ = f.Close(), dir.Close()
		return fmt.Errorf("stat %s: %w", e.path, err)
	}
	was := e.at
	same := e.known && was.Dev == st.Dev && was.Ino == st.Ino // it had only been closed
	e.file, e.dir, e.at = f, dir, place{Dev: st.Dev, Ino: st.Ino}
	if same {
		e.unsaved = e.unsaved || st.Size != e.size
		e.size = st.Size
	} else {
		e.size = st.Size
		e.place(st)
		e.measure()
	}
	e.quick = false
	if e.memory { // nothing else can be relied on not to wait
		var at unix.Stat_t
		e.quick = unix.Fstat(dir.FD(), &at) == nil && at.Dev == st.Dev
	}
	return nil
}

// isNamed reports whether the file that is open still has its name, in what is its
// directory by now, or that cannot be known. It takes note of the size.
func (e *exporter) isNamed(dir *beneath.Dir, err error) bool {
	if err != nil {
		return !beneath.IsRefused(err) && !errors.Is(err, unix.ENOENT)
	}
	var open unix.Stat_t
	if err := unix.Fstat(int(e.file.Fd()), &open); err != nil {
		return false
	}
	named, err := dir.Stat(filepath.Base(e.path))
	if err == nil && (open.Dev != named.Dev || open.Ino != named.Ino) || errors.Is(err, unix.ENOENT) {
		return false
	}
	if open.Size != e.size { // somebody else's doing
		e.size = open.Size
		e.unsaved = true
	}
	return true
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
			if old, err := e.dir.Stat(numbered(filepath.Base(e.path), 1)); err == nil && old.Dev == p.Dev && old.Ino == p.Ino {
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
		e.sys.hold(e.path, max(e.size, e.limit), e.sys.remove)
	} else {
		e.sys.released(e.path)
	}
}

// numbered is the name of an old file: PATH.1 is the newest one.
func numbered(path string, i int) string { return path + "." + strconv.Itoa(i) }

// rotate moves the full file aside.
func (e *exporter) rotate() error {
	if !e.isHere() { // somebody moved or removed it: those before it stay where they are
		e.letGo()
		return e.ensure()
	}
	if err := e.shift(); err != nil && !errors.Is(err, unix.ENOENT) {
		if e.memory { // which it must not fill
			return fmt.Errorf("rotate %s: %w", e.path, err)
		}
		if !e.rotation {
			e.warn("the log grows on: rotate %s: %v", e.path, err)
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

// isHere reports whether the file that was opened last has its name in the directory that is open.
func (e *exporter) isHere() bool {
	named, err := e.dir.Stat(filepath.Base(e.path))
	return err == nil && named.Dev == e.at.Dev && named.Ino == e.at.Ino
}

// shift moves the file and those it was before aside, in the directory that is open.
func (e *exporter) shift() error {
	name := filepath.Base(e.path)
	for i := e.keep - 2; i >= 1; i-- {
		err := e.dir.Rename(numbered(name, i), numbered(name, i+1))
		if err != nil && i == e.keep-2 {
			_ = e.dir.Remove(numbered(name, i+1))
		}
	}
	err := e.dir.Rename(name, numbered(name, 1))
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTEMPTY) { // somebody's directory
		if _, err := e.dir.PutAside(numbered(name, 1)); err != nil {
			return err
		}
		err = e.dir.Rename(name, numbered(name, 1))
	}
	return err
}

// remove removes an old file, of whichever stream.
func (y *System) remove(path string, i int) bool {
	if dir, err := y.cfg.Links.Open(filepath.Dir(path)); err == nil {
		_ = dir.Remove(numbered(filepath.Base(path), i))
		_ = dir.Close()
	}
	return true
}

// tidy makes room for others.
func (e *exporter) tidy() {
	e.untidy = false
	e.keepRoom()
	if e.memory {
		e.sys.hold(e.path, max(e.size, e.limit), e.sys.remove)
	}
}
