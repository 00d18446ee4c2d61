package tree

import (
	"archive/tar"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"

	"keelson/mkimage/sparse"
)

// XattrPrefix begins the PAX records of extended attributes.
const XattrPrefix = "SCHILY.xattr."

const (
	bsdXattrPrefix = "LIBARCHIVE.xattr."
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// Apply unpacks src below r: an image layer, with the whiteouts of the OCI
// image-spec (layer.md), over what is there.
func (r *Root) Apply(src Source) error {
	r.t.layer++
	index := len(r.t.sources)
	r.t.sources = append(r.t.sources, src)
	meter := func(rc io.Reader) io.Reader { return metered{rc, r.t} }
	err := each(src, meter, func(entry int, hdr *tar.Header, contents io.Reader) error {
		err := r.t.count(hdr)
		if err == nil {
			err = r.apply(index, entry, hdr, contents)
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", short(hdr.Name), err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", src.Name(), err)
	}
	return nil
}

// each calls fn for every entry of src, numbered from 0. through, if not nil, is put
// in the way of the stream.
func each(src Source, through func(io.Reader) io.Reader, fn func(entry int, hdr *tar.Header, contents io.Reader) error) error {
	rc, err := src.Open()
	if err != nil {
		return err
	}
	defer rc.Close()
	var stream io.Reader = rc
	if through != nil {
		stream = through(rc)
	}
	tr := tar.NewReader(stream)
	for entry := 0; ; entry++ {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			// The rest is read too: a layer's digest is checked at its end.
			_, err := io.Copy(io.Discard, stream)
			return err
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		if err := fn(entry, hdr, tr); err != nil {
			return err
		}
	}
}

func (r *Root) apply(source, entry int, hdr *tar.Header, contents io.Reader) error {
	name := clean(hdr.Name)
	base := path.Base(name)
	if strings.HasPrefix(base, whiteout) {
		return r.applyWhiteout(name, base)
	}
	in := &Inode{
		Mode:    hdr.Mode & 0o7777,
		UID:     hdr.Uid,
		GID:     hdr.Gid,
		ModTime: hdr.ModTime,
		Xattrs:  xattrs(hdr),
		source:  -1,
	}
	switch hdr.Typeflag {
	case tar.TypeReg, '\x00', '7', tar.TypeGNUSparse:
		in.Type, in.Size = tar.TypeReg, hdr.Size
		if hdr.Size > 0 {
			in.source, in.entry = source, entry
		}
		var err error
		if in.Data, err = dataOf(hdr, contents); err != nil {
			return err
		}
	case tar.TypeDir, tar.TypeFifo:
		in.Type = hdr.Typeflag
	case tar.TypeSymlink:
		in.Type, in.Target, in.Mode = hdr.Typeflag, hdr.Linkname, 0o777
	case tar.TypeChar, tar.TypeBlock:
		in.Type, in.Major, in.Minor = hdr.Typeflag, hdr.Devmajor, hdr.Devminor
	case tar.TypeLink:
		return r.hardLink(name, hdr.Linkname)
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("tar entry of type %q, which no root filesystem can hold", hdr.Typeflag)
	}
	if in.IsDir() && r.ofAnother(name) {
		return nil
	}
	_, err := r.put(name, in)
	return err
}

// dataOf finds the data of a large file: in its header, else in its contents.
func dataOf(hdr *tar.Header, contents io.Reader) (sparse.Map, error) {
	if hdr.Size < sparse.MinHoles {
		return nil, nil
	}
	data, known, err := sparse.FromTar(hdr)
	if known || err != nil {
		return data, err
	}
	var s sparse.Scanner
	if _, err := io.CopyBuffer(&s, struct{ io.Reader }{contents}, make([]byte, 1<<20)); err != nil {
		return nil, err
	}
	return s.Map(), nil
}

// ofAnother reports whether another image has the folder name already: its mode,
// owner and time stay, so that a later image of init: cannot open what an earlier
// one has closed, nor close what others need.
func (r *Root) ofAnother(name string) bool {
	n, err := r.find(name)
	return err == nil && n != nil && n != r.n && n.inode.IsDir() && n.image != r.t.image && !n.implied
}

// applyWhiteout removes what lower layers have. Entries of the same layer stay,
// whether they come before or after the whiteout.
func (r *Root) applyWhiteout(name, base string) error {
	dir, err := r.resolve(path.Dir(name), false)
	if dir == nil || err != nil {
		return err
	}
	switch {
	case base == opaqueWhiteout:
		r.prune(dir)
	case strings.HasPrefix(base, whiteout+whiteout):
		// aufs keeps its own metadata under these names.
	default:
		if n := dir.children[strings.TrimPrefix(base, whiteout)]; n != nil {
			r.strike(n)
		}
	}
	return nil
}

// prune removes from dir everything of earlier layers.
func (r *Root) prune(dir *node) {
	if dir.pruned == r.t.layer {
		return // a layer with many whiteouts may take no more time than one with few
	}
	dir.pruned = r.t.layer
	for _, c := range dir.children {
		r.strike(c)
	}
}

// strike removes n unless this layer made it or something below it.
func (r *Root) strike(n *node) {
	if n.inode.IsDir() {
		r.prune(n)
		if len(n.children) > 0 {
			return
		}
	}
	if n.layer != r.t.layer {
		n.remove()
	}
}

func (r *Root) hardLink(name, target string) error {
	n, err := r.find(target)
	if err != nil {
		return err
	}
	if n == nil || n.inode.IsDir() {
		return fmt.Errorf("hard link to %s, which is not a file of this image", target)
	}
	if clean(target) == name {
		return nil
	}
	_, err = r.put(name, n.inode)
	return err
}

// xattrs are the extended attributes of an entry, as PAX records of the kind that most
// tools write; bsdtar's are made those.
func xattrs(hdr *tar.Header) map[string]string {
	var x map[string]string
	set := func(k, v string) {
		if x == nil {
			x = map[string]string{}
		}
		x[k] = v
	}
	for k, v := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(k, bsdXattrPrefix)
		if !ok {
			continue
		}
		name, err := url.PathUnescape(name)
		value, err2 := base64.RawStdEncoding.DecodeString(strings.TrimRight(v, "="))
		if err == nil && err2 == nil && name != "" {
			set(XattrPrefix+name, string(value))
		}
	}
	for k, v := range hdr.PAXRecords {
		if strings.HasPrefix(k, XattrPrefix) {
			set(k, v)
		}
	}
	return x
}
