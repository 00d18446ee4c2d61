package output

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"keelson/mkimage/sparse"
	"keelson/mkimage/tree"
)

// Ext4 writes t as an ext4 file system that is as large as what is in it, and
// that the kernel never writes to; count as for Initrd. It needs no tool and no
// rights, and owners, device nodes and extended attributes are what t says.
func Ext4(ctx context.Context, f io.ReadWriteSeeker, t *tree.Tree, count func(n int)) error {
	pr, pw := io.Pipe()
	written := make(chan error, 1)
	hollow := &hollowed{}
	go func() {
		tw := sparse.NewTarWriter(pw)
		hollow.allTimes = allTimes{tarWriter{tw}}
		err := t.Write(watched{onDisk{hollow}, ctx, count})
		if err == nil {
			err = tw.Close()
		}
		pw.CloseWithError(err) // nil is the end of the archive
		written <- err
	}()
	err := tar2ext4.ConvertTarToExt4(pr, f, tar2ext4.MaximumDiskSize(ext4Limit(t)))
	pr.CloseWithError(err) // the other side waits for a reader no longer
	if werr := <-written; err == nil && werr != nil {
		err = werr
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = padInodeBitmaps(f)
	}
	if err == nil {
		err = hollow.finish(f)
	}
	if err != nil {
		return fmt.Errorf("ext4: %w", err)
	}
	return nil
}

// padInodeBitmaps sets the bits of inodes that a group has not, which the library
// leaves open and e2fsck takes for damage.
func padInodeBitmaps(f io.ReadWriteSeeker) error {
	const block = 4096
	le := binary.LittleEndian
	at := func(offset int64, b []byte, do func([]byte) (int, error)) error {
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return err
		}
		_, err := do(b)
		return err
	}
	read := func(b []byte) (int, error) { return io.ReadFull(f, b) }
	super := make([]byte, 1024)
	if err := at(1024, super, read); err != nil {
		return err
	}
	blocks, perGroup, inodes := le.Uint32(super[0x4:]), le.Uint32(super[0x20:]), le.Uint32(super[0x28:])
	descriptors := make([]byte, (blocks+perGroup-1)/perGroup*32)
	if err := at(block, descriptors, read); err != nil {
		return err
	}
	bits := make([]byte, block)
	for ; len(descriptors) > 0; descriptors = descriptors[32:] {
		offset := int64(le.Uint32(descriptors[0x4:])) * block
		if err := at(offset, bits, read); err != nil {
			return err
		}
		for i := inodes; i < block*8; i++ {
			bits[i/8] |= 1 << (i % 8)
		}
		if err := at(offset, bits, f.Write); err != nil {
			return err
		}
	}
	return nil
}

// ext4Limit is more than the file system can become: the writer keeps room for
// as many group descriptors as that takes, one block for 16 GiB.
func ext4Limit(t *tree.Tree) int64 {
	entries, bytes := t.Size()
	bytes -= t.Holes()
	return max(16<<30, bytes+bytes/8+int64(entries)*16<<10)
}

// allTimes gives entries the one time that they have for all three of a file.
type allTimes struct{ tarWriter }

// WriteEntry implements tree.Writer.
func (a allTimes) WriteEntry(e tree.Entry, contents io.Reader) error {
	hdr := a.header(e)
	hdr.AccessTime, hdr.ChangeTime = e.ModTime, e.ModTime
	return a.write(hdr, nil, contents)
}
