package spool

import (
	"bytes"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"keelson/services/store"
)

// noteBytes is how large the file of a note is, at least: it is filled up with newlines, so
// that the next one can be written over it.
const noteBytes = 512

// Remember keeps a few bytes beside the stream, under a name, for a later process: the old
// ones or the new ones, never half of each. They do not end with a newline.
func (st *Stream) Remember(name string, data []byte) error {
	if pad := noteBytes - len(data); pad > 0 {
		data = append(bytes.Clone(data), bytes.Repeat([]byte{'\n'}, pad)...)
	}
	return st.retry(func() error {
		st.mu.Lock()
		defer st.mu.Unlock()
		if writeOver(st.notes[name], data) {
			return nil
		}
		if f := st.notes[name]; f != nil {
			_ = f.Close()
			delete(st.notes, name)
		}
		f, err := st.replace(name, data)
		if err != nil {
			return err
		}
		if st.notes == nil {
			st.notes = map[string]*os.File{}
		}
		st.notes[name] = f
		return nil
	})
}

// writeOver writes a note over an old one of the same length, if that is still there. It is
// in one page, which is written as a whole before a process that is killed can end.
func writeOver(f *os.File, data []byte) bool {
	var st unix.Stat_t
	if f == nil || len(data) > pageBytes || unix.Fstat(int(f.Fd()), &st) != nil || st.Nlink == 0 || st.Size != int64(len(data)) {
		return false
	}
	n, err := f.WriteAt(data, 0)
	return err == nil && n == len(data)
}

// replace puts a new file in the place of an old one.
func (st *Stream) replace(name string, data []byte) (*os.File, error) {
	path := filepath.Join(st.dir, name)
	const flags = os.O_RDWR | os.O_CREATE | os.O_TRUNC
	var f *os.File
	err := store.InFolder(st.dir, 0o700, func() (err error) {
		f, err = openFile(path+".new", flags)
		return err
	})
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(data); err == nil {
		err = unix.Rename(path+".new", path)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(path + ".new")
		return nil, err
	}
	return f, nil
}

// Recall returns what was remembered under a name.
func (st *Stream) Recall(name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(st.dir, name))
	return bytes.TrimRight(data, "\n"), err
}
