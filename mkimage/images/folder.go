package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/mkimage/sparse"
	"keelson/mkimage/tree"
)

// capability is the extended attribute that images keep; what else a directory's files
// have is the machine's own.
const capability = "security.capability"

// maxReported bounds how many files of a kind are named in a warning.
const maxReported = 20

// folderOptions say what of a directory goes into a layer.
type folderOptions struct {
	keepOwner bool
	mtime     time.Time // given to every entry
	devices   []Device
	warn      func(format string, a ...any) // of what is left out; may be nil
}

// folder writes a directory as a tar.
type folder struct {
	folderOptions
	root    string
	tw      *sparse.TarWriter
	inodes  map[[2]uint64]string // first name of a file with several
	sockets []string
	xattrs  []string
}

// writeFolder writes a directory as a tar, sorted by path.
func writeFolder(w io.Writer, root string, opt folderOptions) error {
	f := &folder{folderOptions: opt, root: root, tw: sparse.NewTarWriter(w), inodes: map[[2]uint64]string{}}
	if err := f.visit("."); err != nil {
		return err
	}
	for _, d := range opt.devices {
		err := f.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeChar, Name: d.Path, Mode: 0o666, Devmajor: d.Major, Devminor: d.Minor,
			ModTime: opt.mtime, Format: tar.FormatPAX})
		if err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	f.report("sockets (%d), which nothing listens on in an image: %s", f.sockets)
	f.report("extended attributes (%d) other than "+capability+", which are this machine's: %s", f.xattrs)
	return f.tw.Close()
}

// report tells what is left out of the image.
func (f *folder) report(format string, names []string) {
	if len(names) == 0 || f.warn == nil {
		return
	}
	list := strings.Join(names[:min(len(names), maxReported)], ", ")
	if more := len(names) - maxReported; more > 0 {
		list += fmt.Sprintf(", and %d more", more)
	}
	f.warn("left out of the image: "+format, len(names), list)
}

func (f *folder) visit(rel string) error {
	full := filepath.Join(f.root, rel)
	fi, err := os.Lstat(full)
	if err != nil {
		return err
	}
	if rel != "." { // a directory's own owner and mode say nothing about the image
		if err := f.entry(full, filepath.ToSlash(rel), fi); err != nil {
			return fmt.Errorf("%s: %w", full, err)
		}
	}
	if !fi.IsDir() {
		return nil
	}
	list, err := os.ReadDir(full)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range list {
		if err := f.visit(filepath.Join(rel, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) entry(full, name string, fi fs.FileInfo) error {
	if fi.Mode()&fs.ModeSocket != 0 { // as Docker and tar do
		f.sockets = append(f.sockets, "/"+name)
		return nil
	}
	hdr, err := f.header(full, name, fi)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return f.tw.WriteHeader(hdr)
	}
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		return err
	}
	if st.Nlink > 1 {
		id := [2]uint64{st.Dev, st.Ino}
		if first, ok := f.inodes[id]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size, hdr.PAXRecords = tar.TypeLink, first, 0, nil
			return f.tw.WriteHeader(hdr)
		}
		f.inodes[id] = name
	}
	return f.contents(full, hdr)
}

// contents writes a regular file, without its holes if it has large ones.
func (f *folder) contents(full string, hdr *tar.Header) error {
	file, err := os.Open(full)
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := sparse.Of(file, hdr.Size)
	if err != nil {
		return err
	}
	if data != nil {
		return f.tw.WriteSparse(hdr, data, sparse.DataOf(file, data))
	}
	if err := f.tw.WriteHeader(hdr); err != nil {
		return err
	}
	_, err = io.Copy(f.tw, io.NewSectionReader(file, 0, 1<<63-1))
	return err
}

func (f *folder) header(full, name string, fi fs.FileInfo) (*tar.Header, error) {
	link := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(full); err != nil {
			return nil, err
		}
	}
	hdr, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return nil, err
	}
	hdr.Name = name
	if fi.IsDir() {
		hdr.Name += "/"
	}
	hdr.Format = tar.FormatPAX
	hdr.ModTime, hdr.AccessTime, hdr.ChangeTime = f.mtime, time.Time{}, time.Time{}
	hdr.Uname, hdr.Gname = "", ""
	if !f.keepOwner {
		hdr.Uid, hdr.Gid = 0, 0
	}
	hdr.PAXRecords, err = f.attributes(full, name)
	return hdr, err
}

// attributes returns the capabilities of a file, as a PAX record, and notes what other
// attributes it has.
func (f *folder) attributes(full, name string) (map[string]string, error) {
	list, err := xattr(func(b []byte) (int, error) { return unix.Llistxattr(full, b) })
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var records map[string]string
	for attr := range bytes.SplitSeq(list, []byte{0}) {
		switch attr := string(attr); {
		case attr == "" || strings.HasPrefix(attr, "security.selinux"): // labels of the machine's policy
		case attr != capability:
			f.xattrs = append(f.xattrs, fmt.Sprintf("/%s (%s)", name, attr))
		default:
			value, err := xattr(func(b []byte) (int, error) { return unix.Lgetxattr(full, attr, b) })
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", attr, err)
			}
			records = map[string]string{tree.XattrPrefix + capability: string(value)}
		}
	}
	return records, nil
}

// xattr calls get with room enough for what it returns.
func xattr(get func([]byte) (int, error)) ([]byte, error) {
	for {
		size, err := get(nil)
		switch {
		case errors.Is(err, unix.ENOTSUP):
			return nil, nil
		case err != nil:
			return nil, err
		case size == 0:
			return nil, nil
		}
		b := make([]byte, size)
		if size, err = get(b); err == nil {
			return b[:size], nil
		}
		if !errors.Is(err, unix.ERANGE) { // it has grown since
			return nil, err
		}
	}
}
