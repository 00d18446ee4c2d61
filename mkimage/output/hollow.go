package output

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"keelson/mkimage/sparse"
	"keelson/mkimage/tree"
)

// hollowed gives the library that writes ext4 the data of sparse files without their
// holes, a block in front by which each is found again. finish then lists in that block
// where in the file the data belongs.
type hollowed struct {
	allTimes
	files []*hollowFile
}

type hollowFile struct {
	path string
	size int64 // holes included
	data sparse.Map
	mark [sha256.Size]byte // its first block begins with
	done bool
}

// stored is the size of the file that the library writes.
func (h *hollowFile) stored() int64 { return sparse.Block + h.data.Data() }

// WriteEntry implements tree.Writer.
func (h *hollowed) WriteEntry(e tree.Entry, contents io.Reader) error {
	if e.Data == nil || e.HardLink != "" {
		return h.allTimes.WriteEntry(e, contents)
	}
	file := &hollowFile{path: e.Path, size: e.Size, data: e.Data, mark: sha256.Sum256([]byte("sparse\x00" + e.Path))}
	if len(file.data) == 0 { // a file has one block at least
		file.data = sparse.Map{{Off: 0, Len: sparse.Block}}
	}
	h.files = append(h.files, file)
	first := make([]byte, sparse.Block)
	copy(first, file.mark[:])
	in := *e.Inode
	in.Size, in.Data = file.stored(), nil
	e.Inode = &in
	return h.allTimes.WriteEntry(e, io.MultiReader(bytes.NewReader(first), sparse.Packed(contents, file.data)))
}

// Places in ext4's structures, of those that the library writes: Documentation/filesystems/ext4.
const (
	superInodes, superPerGroup, superBlocks = 0x28, 0x20, 0x04

	descriptorSize, descriptorTable = 32, 0x8

	inodeBytes                                               = 256
	inodeMode, inodeSizeLow, inodeExtents, inodeSizeHigh     = 0x0, 0x4, 0x28, 0x6c
	inodeTypeMask, inodeRegular                              = 0xf000, 0x8000
	extentMagic, extentHeader, extentEntry, extentsInBlock   = 0xf30a, 12, 12, (sparse.Block - 12) / 12
	extentEntries, extentMax, extentDepth, extentMaxInInode  = 2, 4, 6, 4
	extentBlocks                                             = 0x8000 // in one entry
	entryBlock, entryLength, entryStart, indexBlock, indexAt = 0, 4, 8, 0, 4
)

var le = binary.LittleEndian

// disk reads and writes the blocks of a file system.
type disk struct{ io.ReadWriteSeeker }

func (d disk) read(off int64, b []byte) error {
	if _, err := d.Seek(off, io.SeekStart); err != nil {
		return err
	}
	_, err := io.ReadFull(d, b)
	return err
}

func (d disk) write(off int64, b []byte) error {
	if _, err := d.Seek(off, io.SeekStart); err != nil {
		return err
	}
	_, err := d.Write(b)
	return err
}

// finish makes the files that were written sparse.
func (h *hollowed) finish(f io.ReadWriteSeeker) error {
	if len(h.files) == 0 {
		return nil
	}
	d := disk{f}
	super := make([]byte, 1024)
	if err := d.read(1024, super); err != nil {
		return err
	}
	inodes, perGroup, blocks := le.Uint32(super[superInodes:]), le.Uint32(super[superPerGroup:]), le.Uint32(super[superBlocks:])
	descriptors := make([]byte, (blocks+perGroup-1)/perGroup*descriptorSize)
	if err := d.read(sparse.Block, descriptors); err != nil {
		return err
	}
	table := make([]byte, int64(inodes)*inodeBytes)
	for ; len(descriptors) > 0; descriptors = descriptors[descriptorSize:] {
		at := int64(le.Uint32(descriptors[descriptorTable:])) * sparse.Block
		if err := d.read(at, table); err != nil {
			return err
		}
		for i := 0; i < len(table); i += inodeBytes {
			if err := h.inode(d, at+int64(i), table[i:i+inodeBytes]); err != nil {
				return err
			}
		}
	}
	for _, file := range h.files {
		if !file.done {
			return fmt.Errorf("%s: its holes could not be made: the file is not where it was written", file.path)
		}
	}
	return nil
}

// inode makes the file of an inode sparse if it is one of those.
func (h *hollowed) inode(d disk, at int64, inode []byte) error {
	size := int64(le.Uint32(inode[inodeSizeLow:])) | int64(le.Uint32(inode[inodeSizeHigh:]))<<32
	if le.Uint16(inode[inodeMode:])&inodeTypeMask != inodeRegular {
		return nil
	}
	for _, file := range h.files {
		if file.done || file.stored() != size {
			continue
		}
		root := inode[inodeExtents : inodeExtents+60]
		list, leaf := root, uint32(0)
		if le.Uint16(root[extentDepth:]) == 1 {
			leaf = le.Uint32(root[extentHeader+indexAt:])
			list = make([]byte, sparse.Block)
			if err := d.read(int64(leaf)*sparse.Block, list); err != nil {
				return err
			}
		}
		start := le.Uint32(list[extentHeader+entryStart:])
		first := make([]byte, len(file.mark))
		if err := d.read(int64(start)*sparse.Block, first); err != nil {
			return err
		}
		if !bytes.Equal(first, file.mark[:]) {
			continue
		}
		if err := file.hollow(d, root, start, leaf); err != nil {
			return fmt.Errorf("%s: %w", file.path, err)
		}
		le.PutUint32(inode[inodeSizeLow:], uint32(file.size))
		le.PutUint32(inode[inodeSizeHigh:], uint32(file.size>>32))
		file.done = true
		return d.write(at, inode)
	}
	return nil
}

// hollow lists where the data belongs, which begins behind the block start. The list is in
// that block; a file of which the library has made a list in a block already (leaf) keeps
// that one, and the block start becomes the first of a hole.
func (h *hollowFile) hollow(d disk, root []byte, start, leaf uint32) error {
	type extent struct{ block, length, start uint32 }
	var list []extent
	next, at := start+1, uint32(0)
	filled := leaf == 0
	for _, e := range h.data {
		block, length := uint32(e.Off/sparse.Block), uint32((e.Len+sparse.Block-1)/sparse.Block)
		if !filled && block > at {
			list, filled = append(list, extent{at, 1, start}), true
		}
		at = block + length
		for length > 0 {
			n := min(length, extentBlocks)
			list = append(list, extent{block, n, next})
			block, length, next = block+n, length-n, next+n
		}
	}
	if !filled {
		list = append(list, extent{at, 1, start})
	}
	if len(list) > extentsInBlock {
		return fmt.Errorf("has too much data for a sparse file: %d MiB in %d pieces", h.data.Data()>>20, len(h.data))
	}
	b := make([]byte, sparse.Block)
	where := leaf
	if leaf == 0 {
		where = start
	} else if err := d.write(int64(start)*sparse.Block, b); err != nil {
		return err
	}
	putExtents(b, len(list), extentsInBlock, 0)
	for i, e := range list {
		entry := b[extentHeader+i*extentEntry:]
		le.PutUint32(entry[entryBlock:], e.block)
		le.PutUint16(entry[entryLength:], uint16(e.length))
		le.PutUint32(entry[entryStart:], e.start)
	}
	clear(root)
	putExtents(root, 1, extentMaxInInode, 1)
	le.PutUint32(root[extentHeader+indexBlock:], list[0].block)
	le.PutUint32(root[extentHeader+indexAt:], where)
	return d.write(int64(where)*sparse.Block, b)
}

func putExtents(b []byte, entries, most, depth int) {
	le.PutUint16(b, extentMagic)
	le.PutUint16(b[extentEntries:], uint16(entries))
	le.PutUint16(b[extentMax:], uint16(most))
	le.PutUint16(b[extentDepth:], uint16(depth))
}
