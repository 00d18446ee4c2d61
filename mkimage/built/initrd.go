package built

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"keelson/mkimage/tree"
)

// readRoot gives the entries of a tar, or of an initrd, to w. An initrd is one archive
// or several, the last of them compressed, with zeros between them; unpacked is what
// was in that.
func readRoot(r io.Reader, w tree.Writer, unpacked bool) error {
	br := bufio.NewReaderSize(r, 1<<16)
	if head, _ := br.Peek(512); len(head) == 512 && string(head[257:262]) == "ustar" {
		return readTar(br, w)
	}
	for archives := 0; ; {
		magic, err := br.Peek(4)
		switch {
		case errors.Is(err, io.EOF) && len(bytes.Trim(magic, "\x00")) == 0:
			return nil
		case unpacked && archives > 0 && (errors.Is(err, zstd.ErrMagicMismatch) || errors.Is(err, io.ErrUnexpectedEOF)):
			return nil // the zeros behind the compressed part
		case err != nil:
			return unexpected(err)
		case magic[0] == 0:
			if _, err := br.Discard(1); err != nil {
				return err
			}
		case string(magic) == "0707":
			if err := readCpio(br, w); err != nil {
				return err
			}
			archives++
		case !unpacked && (string(magic) == zstdMagic || string(magic) == lz4Magic || string(magic[:2]) == gzipMagic):
			zr, err := decompressor(magic, br)
			if err != nil {
				return err
			}
			defer zr.Close()
			return readRoot(zr, w, true)
		default:
			return fmt.Errorf("%q begins neither a cpio archive nor what is compressed with LZ4, zstd or gzip", magic)
		}
	}
}

// unexpected makes the end of a file an error.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

const (
	cpioHeader  = 110
	maxName     = 4096 // bytes of a name or a symbolic link, as the kernel has it
	cpioTrailer = "TRAILER!!!"
)

var cpioTypes = map[int64]byte{
	unix.S_IFREG: tar.TypeReg, unix.S_IFDIR: tar.TypeDir, unix.S_IFLNK: tar.TypeSymlink,
	unix.S_IFCHR: tar.TypeChar, unix.S_IFBLK: tar.TypeBlock, unix.S_IFIFO: tar.TypeFifo,
}

// cpioReader reads one archive of the format "newc".
type cpioReader struct {
	r     *bufio.Reader
	w     tree.Writer
	owner map[int64]string       // the file that has an inode's contents
	empty map[int64][]tree.Entry // names of inodes whose contents have not come yet
}

func readCpio(r *bufio.Reader, w tree.Writer) error {
	c := &cpioReader{r: r, w: w, owner: map[int64]string{}, empty: map[int64][]tree.Entry{}}
	for {
		ino, links, e, err := c.next()
		if err != nil {
			return err
		}
		if e.Path == cpioTrailer {
			return c.rest()
		}
		size := e.Size
		if err := c.entry(ino, links, e); err != nil {
			return err
		}
		if err := c.skip(-size & 3); err != nil {
			return err
		}
	}
}

// next reads a header, and the target of a symbolic link.
func (c *cpioReader) next() (ino, links int64, e tree.Entry, err error) {
	text := make([]byte, cpioHeader)
	if _, err := io.ReadFull(c.r, text); err != nil {
		return 0, 0, e, unexpected(err)
	}
	if string(text[:6]) != "070701" && string(text[:6]) != "070702" {
		return 0, 0, e, fmt.Errorf("%q begins no entry of a cpio archive", text[:6])
	}
	var raw [52]byte
	if _, err := hex.Decode(raw[:], text[6:]); err != nil {
		return 0, 0, e, fmt.Errorf("an entry of the cpio archive: %w", err)
	}
	var v [13]int64
	for i := range v {
		for _, b := range raw[4*i : 4*i+4] {
			v[i] = v[i]<<8 | int64(b)
		}
	}
	if v[11] < 1 || v[11] > maxName {
		return 0, 0, e, fmt.Errorf("an entry of the cpio archive has a name of %d bytes", v[11])
	}
	name := make([]byte, v[11])
	if _, err := io.ReadFull(c.r, name); err != nil {
		return 0, 0, e, unexpected(err)
	}
	if err := c.skip(-(cpioHeader + v[11]) & 3); err != nil {
		return 0, 0, e, err
	}
	in := &tree.Inode{
		Type: cpioTypes[v[1]&unix.S_IFMT], Mode: v[1] &^ unix.S_IFMT, UID: int(v[2]), GID: int(v[3]),
		ModTime: time.Unix(v[5], 0).UTC(), Size: v[6], Major: v[9], Minor: v[10],
	}
	e = tree.Entry{Path: string(bytes.TrimSuffix(name, []byte{0})), Inode: in}
	if e.Path != cpioTrailer && in.Type == 0 {
		return 0, 0, e, fmt.Errorf("%s: mode %o is that of no kind of file", e.Path, v[1])
	}
	return v[0], v[4], e, nil
}

func (c *cpioReader) entry(ino, links int64, e tree.Entry) error {
	switch {
	case e.Type == tar.TypeSymlink:
		if e.Size > maxName {
			return fmt.Errorf("%s: a symbolic link of %d bytes", e.Path, e.Size)
		}
		target := make([]byte, e.Size)
		if _, err := io.ReadFull(c.r, target); err != nil {
			return fmt.Errorf("%s: %w", e.Path, unexpected(err))
		}
		e.Target, e.Size = string(target), 0
	case e.Type == tar.TypeReg && links > 1 && c.owner[ino] != "" && e.Size == 0:
		e.HardLink = c.owner[ino]
	case e.Type == tar.TypeReg && links > 1 && e.Size == 0:
		c.empty[ino] = append(c.empty[ino], e)
		return nil
	}
	names := c.empty[ino]
	if e.Type != tar.TypeReg || links < 2 { // another file with that number
		names = nil
	}
	for _, n := range names {
		e.Links = append(e.Links, n.Path)
	}
	body := &counter{Reader: io.LimitReader(c.r, e.Size)}
	if err := c.w.WriteEntry(e, body); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	if body.n < e.Size {
		return fmt.Errorf("%s: %w", e.Path, io.ErrUnexpectedEOF)
	}
	if e.Type == tar.TypeReg && links > 1 && e.HardLink == "" {
		c.owner[ino] = e.Path
	}
	if names != nil {
		delete(c.empty, ino)
	}
	return c.links(e.Path, names)
}

// links gives other names of a file.
func (c *cpioReader) links(owner string, names []tree.Entry) error {
	for _, e := range names {
		e.HardLink = owner
		if err := c.w.WriteEntry(e, bytes.NewReader(nil)); err != nil {
			return err
		}
	}
	return nil
}

// rest gives the names of files without contents.
func (c *cpioReader) rest() error {
	for _, ino := range slices.Sorted(maps.Keys(c.empty)) {
		first, others := c.empty[ino][0], c.empty[ino][1:]
		for _, n := range others {
			first.Links = append(first.Links, n.Path)
		}
		if err := c.w.WriteEntry(first, bytes.NewReader(nil)); err != nil {
			return err
		}
		if err := c.links(first.Path, others); err != nil {
			return err
		}
	}
	return nil
}

func (c *cpioReader) skip(n int64) error {
	_, err := c.r.Discard(int(n))
	return unexpected(err)
}

type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += int64(n)
	return n, err
}
