package spool

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ErrGone is the error of a copy from an offset that is not kept any more.
var ErrGone = errors.New("not kept any more")

// openFile is os.OpenFile for a file that nobody waits for: it does not try to.
func openFile(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// CopyTo appends bytes of the stream, from an offset on and no more than max, to a
// file at its position, and returns how many it was. The file must not have been
// opened for appending. An error may come with a count.
func (st *Stream) CopyTo(f *os.File, from, max int64) (int64, error) {
	for was := (segment{header: header{base: -1}}); ; {
		g, now, err := st.hold(from)
		if err != nil || g == nil {
			return 0, err
		}
		done, err := now.copyTo(st.dir, f, from-now.base, min(max, now.end()-from))
		st.release(g)
		if !errors.Is(err, os.ErrNotExist) || now.base == was.base && now.cold == was.cold {
			return done, err
		}
		was = now // it is cold or gone since
	}
}

// AppendTo appends bytes of the stream, from an offset on and no more than most, to a file,
// wherever that ends by now, and returns how many it was: none where this is not to be had
// in a single step, as CopyTo may need several.
func (st *Stream) AppendTo(f *os.File, from, most int64) int64 {
	g, now, err := st.hold(from)
	if err != nil || g == nil {
		return 0
	}
	defer st.release(g)
	off := from - now.base
	if now.mapped == nil || off >= now.size || most <= 0 {
		return 0
	}
	for {
		n, err := unix.Pwritev2(int(f.Fd()), [][]byte{now.mapped[off:min(off+most, now.size)]}, 0, unix.RWF_APPEND)
		if !errors.Is(err, unix.EINTR) {
			return int64(max(n, 0))
		}
	}
}

// copyTo appends n bytes of a segment, from an offset of its own on, to a file.
func (g *segment) copyTo(dir string, f *os.File, off, n int64) (int64, error) {
	if g.cold {
		_, data, err := g.load(dir)
		if err != nil {
			return 0, err
		}
		done, err := f.Write(data[min(off, int64(len(data))):min(off+n, int64(len(data)))])
		return int64(done), err
	}
	if g.mapped != nil {
		done, err := f.Write(g.mapped[off:min(off+n, SegmentBytes)])
		return int64(done), err
	}
	if g.data != nil {
		return send(f, g.data, off, n)
	}
	in, err := openFile(g.path(dir), unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	return send(f, in, off, n)
}

// hold returns the segment that holds the byte at an offset, and a copy of how it is now,
// as it may change, or nil if that byte has not been written. Until it is released no
// other bytes are written over it, and its file stays open if it is, though the segment
// may go.
func (st *Stream) hold(off int64) (g *segment, now segment, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if off >= st.end {
		return nil, now, nil
	}
	for i := len(st.segments) - 1; i >= 0; i-- {
		if g := st.segments[i]; g.base <= off {
			g.readers++
			return g, *g, nil
		}
	}
	return nil, now, ErrGone
}

func (st *Stream) release(g *segment) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if g.readers--; g.closing {
		g.close()
	}
}

// send moves bytes from file to file in the kernel.
func send(to, from *os.File, off, n int64) (done int64, err error) {
	for done < n {
		at := off + done
		got, err := unix.Sendfile(int(to.Fd()), int(from.Fd()), &at, int(n-done))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL) && done == 0: // a file system that does not know how
			buf := make([]byte, n)
			if got, err = from.ReadAt(buf, off); got > 0 {
				wrote, err := to.Write(buf[:got])
				return int64(wrote), err
			}
			return 0, err
		case err != nil:
			return done, err
		case got <= 0:
			return done, nil
		}
		done += int64(got)
	}
	return done, nil
}

// Tail returns the last bytes written since an offset, at most so many, as far as
// they are in the last two segments and not compressed.
func (st *Stream) Tail(since, most int64) []byte {
	st.mu.Lock()
	from := max(since, st.end-most)
	last := st.segments[max(len(st.segments)-2, 0):]
	var parts []segment
	for _, g := range last {
		if !g.cold && g.end() > from {
			parts = append(parts, *g)
		}
	}
	st.mu.Unlock()
	var text []byte
	for _, g := range parts {
		begin := max(from-g.base, 0)
		text = append(text, st.read(&g, "", begin, g.size-begin)...)
	}
	return text
}
