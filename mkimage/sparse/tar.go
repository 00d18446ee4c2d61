package sparse

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// The PAX records of GNU tar's format 0.1, which have the whole list of data in the header.
const (
	recordName   = "GNU.sparse.name"
	recordSize   = "GNU.sparse.size"
	recordBlocks = "GNU.sparse.numblocks"
	recordMap    = "GNU.sparse.map"
	prefix       = "GNU.sparse."
)

// InTar reports whether a tar entry is a sparse file, of which the archive has only the
// data.
func InTar(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// FromTar returns the data of a tar entry whose header lists it. known is false if it
// has to be looked for in the contents.
func FromTar(hdr *tar.Header) (m Map, known bool, err error) {
	text, ok := hdr.PAXRecords[recordMap]
	if !ok {
		return nil, false, nil
	}
	if m, err = parse(text, hdr.Size); err != nil {
		return nil, false, err
	}
	var s Scanner // what other tools list may be in smaller pieces
	for _, e := range m {
		off := e.Off / Block * Block
		s.add(Extent{off, min((e.end()+Block-1)/Block*Block, hdr.Size) - off})
	}
	return s.data.tidy(hdr.Size), true, nil
}

// TarWriter writes a tar that may have sparse files.
type TarWriter struct {
	*tar.Writer
	w io.Writer
}

// NewTarWriter returns a writer of a tar to w.
func NewTarWriter(w io.Writer) *TarWriter { return &TarWriter{tar.NewWriter(w), w} }

// WriteSparse writes a regular file of which data is what m has.
func (t *TarWriter) WriteSparse(hdr *tar.Header, m Map, data io.Reader) error {
	if err := t.Flush(); err != nil { // the end of the entry before
		return err
	}
	records := map[string]string{recordName: strings.TrimSuffix(hdr.Name, "/"), recordSize: strconv.FormatInt(hdr.Size, 10)}
	pieces := m[:len(m):len(m)]
	if rest := hdr.Size % Block; len(m) == 1 && rest > 0 && m[0].Len > rest {
		pieces = Map{{m[0].Off, m[0].Len - rest}, {hdr.Size - rest, rest}}
	}
	var list []string
	for _, e := range append(pieces, Extent{hdr.Size, 0}) { // the end, as GNU tar has it
		list = append(list, strconv.FormatInt(e.Off, 10), strconv.FormatInt(e.Len, 10))
	}
	records[recordMap], records[recordBlocks] = strings.Join(list, ","), strconv.Itoa(len(list)/2)
	for key, v := range hdr.PAXRecords {
		if !strings.HasPrefix(key, prefix) {
			records[key] = v
		}
	}
	// The name in the header proper is for tools that know no sparse files.
	small := &tar.Header{Typeflag: tar.TypeReg, Name: "GNUSparseFile.0/file", Mode: hdr.Mode, Uid: hdr.Uid, Gid: hdr.Gid,
		ModTime: hdr.ModTime, AccessTime: hdr.AccessTime, ChangeTime: hdr.ChangeTime, Size: m.Data(), Format: tar.FormatPAX, PAXRecords: map[string]string{}}
	head, err := header(small, records)
	if err != nil {
		return err
	}
	if _, err := t.w.Write(head); err != nil {
		return err
	}
	n, err := io.Copy(t.w, data)
	if err == nil && n != m.Data() {
		err = fmt.Errorf("has %d bytes of data, not %d", n, m.Data())
	}
	if err == nil {
		_, err = t.w.Write(make([]byte, (blockSize-n%blockSize)%blockSize))
	}
	return err
}

const blockSize = 512

// placeholders are names of the records under which the library lets them be written, of
// the same lengths and in the order that GNU tar wants.
var placeholders = []struct{ name, placeholder string }{
	{recordSize, "\x01NU.sparse.size"}, {recordBlocks, "\x02NU.sparse.numblocks"}, {recordName, "\x03NU.sparse.name"}, {recordMap, "\x04NU.sparse.map"},
}

// header returns the headers of an entry with records that the library writes for nobody.
func header(hdr *tar.Header, records map[string]string) ([]byte, error) {
	for key, v := range records {
		for _, p := range placeholders {
			if key == p.name {
				key = p.placeholder
			}
		}
		hdr.PAXRecords[key] = v
	}
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(hdr); err != nil {
		return nil, err
	}
	b := buf.Bytes()
	for _, p := range placeholders { // they sort before all others
		b = bytes.Replace(b, []byte(" "+p.placeholder+"="), []byte(" "+p.name+"="), 1)
	}
	return b, nil
}
