package output

import (
	"archive/tar"
	"io"

	"keelson/mkimage/sparse"
	"keelson/mkimage/tree"
)

// tarWriter writes PAX tar, which has no limit on names and keeps extended
// attributes and holes.
type tarWriter struct{ tw *sparse.TarWriter }

// WriteEntry implements tree.Writer.
func (t tarWriter) WriteEntry(e tree.Entry, contents io.Reader) error {
	return t.write(t.header(e), e.Data, contents)
}

func (tarWriter) header(e tree.Entry) *tar.Header {
	hdr := &tar.Header{
		Typeflag:   e.Type,
		Name:       e.Path,
		Linkname:   e.Target,
		Mode:       e.Mode,
		Uid:        e.UID,
		Gid:        e.GID,
		ModTime:    e.ModTime,
		Devmajor:   e.Major,
		Devminor:   e.Minor,
		Format:     tar.FormatPAX,
		PAXRecords: e.Xattrs,
	}
	switch {
	case e.HardLink != "":
		hdr.Typeflag, hdr.Linkname = tar.TypeLink, e.HardLink
	case e.IsDir():
		hdr.Name += "/"
	case e.Type == tar.TypeReg:
		hdr.Size = e.Size
	}
	return hdr
}

func (t tarWriter) write(hdr *tar.Header, data sparse.Map, contents io.Reader) error {
	if data != nil && hdr.Typeflag == tar.TypeReg {
		return t.tw.WriteSparse(hdr, data, sparse.Packed(contents, data))
	}
	if err := t.tw.WriteHeader(hdr); err != nil {
		return err
	}
	if hdr.Size == 0 {
		return nil
	}
	// The writer itself refuses a size that is not the header's.
	_, err := io.Copy(t.tw, contents)
	return err
}
