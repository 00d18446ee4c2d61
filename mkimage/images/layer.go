package images

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// fileLayer is a gzip-compressed layer in a file.
type fileLayer struct {
	name   string
	digest v1.Hash
	diffID v1.Hash
	size   int64
}

func (l *fileLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *fileLayer) Size() (int64, error)                { return l.size, nil }
func (l *fileLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.name) }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) {
	f, err := os.Open(l.name)
	if err != nil {
		return nil, err
	}
	zr, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{zr, f}, nil
}

// newLayer compresses what write gives into a file of dir.
func newLayer(dir string, write func(io.Writer) error) (*fileLayer, error) {
	f, err := os.CreateTemp(dir, "layer-*.tar.gz")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l := &fileLayer{name: f.Name()}
	digest, diffID := sha256.New(), sha256.New()
	zw := gzip.NewWriter(io.MultiWriter(f, digest))
	if err := write(io.MultiWriter(zw, diffID)); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	st, err := os.Stat(l.name)
	if err != nil {
		return nil, err
	}
	l.size = st.Size()
	l.digest = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(digest.Sum(nil))}
	l.diffID = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(diffID.Sum(nil))}
	return l, nil
}

// folderOptions say what of a folder goes into a layer.
type folderOptions struct {
	keepOwner bool
	mtime     time.Time // given to every entry
	devices   []Device
}

// Device is a character device that an image holds though the folder it is made
// of does not: making one takes more rights than making an image.
type Device struct {
	Path         string // in the image
	Major, Minor int64
}

// ParseDevice reads PATH:MAJOR:MINOR.
func ParseDevice(text string) (Device, error) {
	wrong := fmt.Errorf("%q is no device; want PATH:MAJOR:MINOR such as /dev/null:1:3", text)
	fields := strings.Split(text, ":")
	if len(fields) != 3 || strings.Trim(fields[0], "/") == "" {
		return Device{}, wrong
	}
	major, err1 := strconv.ParseUint(fields[1], 10, 12)
	minor, err2 := strconv.ParseUint(fields[2], 10, 20)
	if err1 != nil || err2 != nil {
		return Device{}, wrong
	}
	return Device{strings.TrimPrefix(filepath.Clean("/"+fields[0]), "/"), int64(major), int64(minor)}, nil
}

// writeFolder writes a folder as a tar, sorted by path.
func writeFolder(w io.Writer, root string, opt folderOptions) error {
	tw := tar.NewWriter(w)
	inodes := map[[2]uint64]string{}
	var visit func(rel string) error
	visit = func(rel string) error {
		full := filepath.Join(root, rel)
		fi, err := os.Lstat(full)
		if err != nil {
			return err
		}
		if err := writeFolderEntry(tw, full, rel, fi, inodes, opt); err != nil {
			return fmt.Errorf("%s: %w", full, err)
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
			if err := visit(filepath.Join(rel, e.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	if err := visit("."); err != nil {
		return err
	}
	for _, d := range opt.devices {
		err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeChar, Name: d.Path, Mode: 0o666, Devmajor: d.Major, Devminor: d.Minor,
			ModTime: opt.mtime, Format: tar.FormatPAX})
		if err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	return tw.Close()
}

func writeFolderEntry(tw *tar.Writer, full, rel string, fi fs.FileInfo, inodes map[[2]uint64]string, opt folderOptions) error {
	if rel == "." {
		return nil // a folder's own owner and mode say nothing about the image
	}
	link := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(full); err != nil {
			return err
		}
	}
	if fi.Mode()&fs.ModeSocket != 0 {
		return errors.New("is a socket, which no image can hold; remove it")
	}
	hdr, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return err
	}
	hdr.Name = filepath.ToSlash(rel)
	if fi.IsDir() {
		hdr.Name += "/"
	}
	hdr.Format = tar.FormatPAX
	hdr.ModTime, hdr.AccessTime, hdr.ChangeTime = opt.mtime, time.Time{}, time.Time{}
	hdr.Uname, hdr.Gname = "", ""
	if !opt.keepOwner {
		hdr.Uid, hdr.Gid = 0, 0
	}
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		return err
	}
	if fi.Mode().IsRegular() && st.Nlink > 1 {
		id := [2]uint64{st.Dev, st.Ino}
		if first, ok := inodes[id]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
			return tw.WriteHeader(hdr)
		}
		inodes[id] = hdr.Name
	}
	if err := tw.WriteHeader(hdr); err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(full)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(tw, f)
	return err
}
