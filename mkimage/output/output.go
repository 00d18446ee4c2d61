package output

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"keelson/mkimage/scratch"
	"keelson/mkimage/sparse"
	"keelson/mkimage/tree"
)

// Compressions lists what an initrd can be compressed with.
var Compressions = []string{"lz4", "zstd", "gzip", "none"}

// Root is what an initrd is made of: a tree, or what was one.
type Root interface{ Write(w tree.Writer) error }

// A Meter learns what takes how much of an initrd.
type Meter interface {
	// Writer returns a writer in front of w. packed writes all that has come by then,
	// and returns how many bytes the initrd has with it.
	Writer(w tree.Writer, packed func() (int64, error)) tree.Writer
	// Done is told how many bytes the initrd has in all.
	Done(packed int64)
}

// Initrd writes t as an initrd: early (a microcode cpio, may be nil)
// uncompressed in front, as the kernel looks for it there, then t compressed.
// count is told of the bytes of files as they are written; it may be nil.
func Initrd(ctx context.Context, w io.Writer, t Root, early io.Reader, compression string, count func(n int)) error {
	return MeasuredInitrd(ctx, w, t, early, compression, count, nil)
}

// MeasuredInitrd is Initrd with a meter, which may be nil.
func MeasuredInitrd(ctx context.Context, w io.Writer, t Root, early io.Reader, compression string, count func(n int), meter Meter) error {
	pw := &padWriter{w: w}
	if early != nil {
		if _, err := io.Copy(pw, early); err != nil {
			return fmt.Errorf("write the microcode: %w", err)
		}
		if err := pw.pad(); err != nil {
			return err
		}
	}
	zw, err := compressor(pw, compression)
	if err != nil {
		return err
	}
	bw := bufio.NewWriterSize(zw, 1<<18)
	cw := newCpio(bw)
	var to tree.Writer = watched{cw, ctx, count}
	if meter != nil {
		to = meter.Writer(to, func() (int64, error) {
			err := flush(bw, zw)
			return pw.n, err
		})
	}
	if err := t.Write(to); err != nil {
		return err
	}
	if err := cw.Close(); err != nil {
		return err
	}
	if err := bw.Flush(); err != nil {
		return err
	}
	if err := zw.Close(); err != nil {
		return err
	}
	// Zeros behind LZ4 would be one more block: its format has no end.
	if compression != "lz4" {
		if err := pw.pad(); err != nil {
			return err
		}
	}
	if meter != nil {
		meter.Done(pw.n)
	}
	return nil
}

// flush has the compressor write all it has.
func flush(bw *bufio.Writer, zw io.Writer) error {
	if err := bw.Flush(); err != nil {
		return err
	}
	if f, ok := zw.(interface{ Flush() error }); ok {
		return f.Flush()
	}
	return nil
}

// Tar writes t as an uncompressed tar archive; count as for Initrd.
func Tar(ctx context.Context, w io.Writer, t *tree.Tree, count func(n int)) error {
	return writeTar(ctx, w, t, count, func(w tree.Writer) tree.Writer { return w })
}

// DiskTar is Tar for a tool that makes a file system of it.
func DiskTar(ctx context.Context, w io.Writer, t *tree.Tree, count func(n int)) error {
	return writeTar(ctx, w, t, count, func(w tree.Writer) tree.Writer { return onDisk{w} })
}

func writeTar(ctx context.Context, w io.Writer, t *tree.Tree, count func(n int), through func(tree.Writer) tree.Writer) error {
	bw := bufio.NewWriterSize(w, 1<<18)
	tw := sparse.NewTarWriter(bw)
	if err := t.Write(watched{through(tarWriter{tw}), ctx, count}); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return bw.Flush()
}

// watched tells of what is written and ends when its context does.
type watched struct {
	tree.Writer
	ctx   context.Context
	count func(n int)
}

func (w watched) WriteEntry(e tree.Entry, contents io.Reader) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if contents != nil {
		contents = counted{contents, w.ctx, w.count}
	}
	return w.Writer.WriteEntry(e, contents)
}

type counted struct {
	io.Reader
	ctx   context.Context
	count func(n int) // may be nil
}

func (c counted) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.Reader.Read(b)
	if c.count != nil {
		c.count(n)
	}
	return n, err
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func compressor(w io.Writer, name string) (io.WriteCloser, error) {
	switch name {
	case "lz4":
		return newLZ4(w), nil
	case "zstd":
		// The kernel's decoder takes windows of up to 128 MiB; 8 MiB is the
		// size at which a bigger one gains next to nothing on a root.
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
			zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(2))
	case "gzip":
		return gzip.NewWriterLevel(w, gzip.DefaultCompression)
	case "none":
		return nopCloser{w}, nil
	}
	return nil, fmt.Errorf("compression %q: must be one of %v", name, Compressions)
}

// padWriter rounds what it wrote up to the 4 bytes that the kernel wants between
// the parts of an archive, and between the archives of one initrd.
type padWriter struct {
	w io.Writer
	n int64
}

func (p *padWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.n += int64(n)
	return n, err
}

func (p *padWriter) pad() error {
	if odd := p.n % 4; odd != 0 {
		_, err := p.Write(make([]byte, 4-odd))
		return err
	}
	return nil
}

// Folder makes a folder, unless it is there, and says at once if no file can be made
// in it.
func Folder(dir string) error {
	err := os.MkdirAll(dir, 0o755)
	var path *os.PathError
	if errors.As(err, &path) {
		if errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("%s is a file, not a folder", path.Path)
		}
		return fmt.Errorf("the folder %s cannot be made: %w", path.Path, path.Err)
	}
	f, err := create(filepath.Join(dir, "mkimage"))
	if err != nil {
		return err
	}
	f.Close()
	scratch.Remove(f.Name())
	return nil
}

// create makes the file that becomes name.
func create(name string) (*os.File, error) {
	dir := filepath.Dir(name)
	f, err := scratch.File(dir, "."+filepath.Base(name)+".*")
	var path *os.PathError
	if errors.As(err, &path) {
		if _, serr := os.Stat(dir); errors.Is(serr, os.ErrNotExist) {
			return nil, fmt.Errorf("the folder %s is not there; make it first", dir)
		}
		return nil, fmt.Errorf("no file can be made in %s: %w", dir, path.Err)
	}
	return f, err
}

// Files are files that appear together once all are whole, so that a build that fails
// leaves no half image behind. Close removes them if they have not appeared.
type Files struct {
	// Inputs are files that none of these may replace.
	Inputs []string
	list   []scratch.Named
}

// Write makes the file that becomes name with what write gives.
func (s *Files) Write(name string, write func(*os.File) error) error {
	if err := s.check(name); err != nil {
		return err
	}
	f, err := create(name)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	s.list = append(s.list, scratch.Named{Temp: f.Name(), Name: name})
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// check refuses a name that an input has, under whatever path.
func (s *Files) check(name string) error {
	have, err := os.Stat(name)
	if err != nil {
		return nil
	}
	for _, input := range s.Inputs {
		if fi, err := os.Stat(input); err == nil && os.SameFile(fi, have) {
			return fmt.Errorf("write %s: this build reads %s, which is the same file; take another name (--name) or folder (-o)", name, input)
		}
	}
	return nil
}

// Publish has all of them appear.
func (s *Files) Publish() error {
	err := scratch.Publish(s.list...)
	if err == nil {
		s.list = nil
	}
	return err
}

// Close removes what has not appeared.
func (s *Files) Close() {
	for _, n := range s.list {
		scratch.Remove(n.Temp)
	}
	s.list = nil
}

// ToFile makes the file name with what write gives, whole or not at all. It may not be
// one of inputs.
func ToFile(name string, write func(*os.File) error, inputs ...string) error {
	files := Files{Inputs: inputs}
	defer files.Close()
	if err := files.Write(name, write); err != nil {
		return err
	}
	return files.Publish()
}
