package output

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
)

// DiskFormat is how a file holds a disk.
type DiskFormat struct {
	// multiple is what the size of the disk is one of, in bytes.
	multiple int64
	// open begins a file. The disk is written to what it returns, front to back, in
	// as many bytes as size says; Close completes the file.
	open func(f *os.File, size int64, id [16]byte) (io.WriteCloser, error)
}

// The formats of disks that hypervisors and clouds take.
var (
	Raw   = DiskFormat{sector * gptAlign, newRaw}
	QCOW2 = DiskFormat{sector * gptAlign, newQCOW2}
	VHD   = DiskFormat{sector * gptAlign, newVHD} // Azure wants whole megabytes
	VMDK  = DiskFormat{sector * gptAlign, newVMDK}
	GCP   = DiskFormat{1 << 30, newGCP}
)

// EFIDiskFile writes the disk of EFIDisk into a file of a format. Where the disk
// has nothing, the file has nothing either.
func EFIDiskFile(f *os.File, program []byte, format DiskFormat) error {
	e, err := newESP(int64(len(program)))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(program)
	size := e.diskSize(format.multiple)
	w, err := format.open(f, size, [16]byte(guid(sum[16:])))
	if err != nil {
		return err
	}
	if err := e.writeDisk(w, program, gptAlign, size/sector-gptAlign, size/sector, func([]byte) {}); err != nil {
		return err
	}
	return w.Close()
}

// pieces passes on what is written to it in pieces of one size.
type pieces struct {
	piece []byte // its capacity is the size
	each  func(piece []byte) error
}

func newPieces(size int, each func(piece []byte) error) pieces {
	return pieces{make([]byte, 0, size), each}
}

// Write implements io.Writer.
func (p *pieces) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := min(cap(p.piece)-len(p.piece), len(rest))
		p.piece = append(p.piece, rest[:n]...)
		rest = rest[n:]
		if len(p.piece) < cap(p.piece) {
			continue
		}
		if err := p.each(p.piece); err != nil {
			return 0, err
		}
		p.piece = p.piece[:0]
	}
	return len(b), nil
}

// pieceSize is what disk images count in: a cluster of qcow2, a grain of VMDK.
const pieceSize = 64 << 10

var noBytes [pieceSize]byte

// nothing reports whether a piece has only zeros.
func nothing(piece []byte) bool { return bytes.Equal(piece, noBytes[:len(piece)]) }

// raw is a file with a hole wherever the disk has only zeros.
type raw struct {
	pieces
	f    *os.File
	size int64
	at   int64
}

func newRaw(f *os.File, size int64, _ [16]byte) (io.WriteCloser, error) {
	r := &raw{f: f, size: size}
	r.pieces = newPieces(pieceSize, func(piece []byte) error {
		at := r.at
		r.at += int64(len(piece))
		if nothing(piece) {
			return nil
		}
		_, err := f.WriteAt(piece, at)
		return err
	})
	return r, nil
}

// Close implements io.Closer.
func (r *raw) Close() error { return r.f.Truncate(r.size) }

// gcp is what Google's cloud imports: a gzip-compressed tar in GNU's old format
// with the disk as disk.raw.
type gcp struct {
	*tar.Writer
	zw *gzip.Writer
}

func newGCP(f *os.File, size int64, _ [16]byte) (io.WriteCloser, error) {
	zw := gzip.NewWriter(f)
	tw := tar.NewWriter(zw)
	hdr := &tar.Header{Name: "disk.raw", Mode: 0o644, Size: size, Format: tar.FormatGNU}
	if err := tw.WriteHeader(hdr); err != nil {
		return nil, fmt.Errorf("disk.raw: %w", err)
	}
	return gcp{tw, zw}, nil
}

// Close implements io.Closer.
func (g gcp) Close() error {
	if err := g.Writer.Close(); err != nil {
		return err
	}
	return g.zw.Close()
}
