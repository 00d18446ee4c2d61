// Package writelog owns what a disk would hold after its power was cut: it reads the log of writes that QEMU's
// blklogwrites driver keeps, and makes the disk as it could be at an instant of it.
//
// It promises that what was flushed before the instant is there, and of what was not, as much as chance has it, as a
// disk's cache may write in any order. It must never change the disk that the log belongs to.
package writelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
)

// The form of the log is that of Linux's device mapper target log-writes.
const (
	magic = 0x6a736677736872

	flagFlush   = 1 << 0
	flagFUA     = 1 << 1
	flagDiscard = 1 << 2
)

// entry is a write, a flush, or both.
type entry struct {
	at    int64 // byte of the disk
	data  []byte
	flags uint64
}

// Log is a log that was read.
type Log struct{ entries []entry }

// Read reads a log, as far as its head says that it goes.
func Read(r io.ReaderAt) (*Log, error) {
	var head [28]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("read the head of a log of writes: %w", err)
	}
	if got := binary.LittleEndian.Uint64(head[:]); got != magic {
		return nil, fmt.Errorf("not a log of writes: its magic number is %#x", got)
	}
	count, sector := binary.LittleEndian.Uint64(head[16:]), int64(binary.LittleEndian.Uint32(head[24:]))
	if sector < 512 {
		return nil, errors.New("not a log of writes: a sector has less than 512 bytes")
	}
	log, at := new(Log), sector
	for range count {
		var b [32]byte
		if _, err := r.ReadAt(b[:], at); err != nil {
			return nil, fmt.Errorf("read a log of writes: %w", err)
		}
		e := entry{at: int64(binary.LittleEndian.Uint64(b[:])) * sector, flags: binary.LittleEndian.Uint64(b[16:])}
		size := int64(binary.LittleEndian.Uint64(b[8:])) * sector
		at += sector
		if e.flags&flagDiscard == 0 && size > 0 {
			e.data = make([]byte, size)
			if _, err := r.ReadAt(e.data, at); err != nil {
				return nil, fmt.Errorf("read a log of writes: %w", err)
			}
			at += size
		}
		log.entries = append(log.entries, e)
	}
	return log, nil
}

// Len is how many entries there are: instants at which the power can be cut.
func (l *Log) Len() int { return len(l.entries) }

// Cut makes a disk, which is as it was before the first write, what it could be when the power is cut after so many
// entries.
func (l *Log) Cut(disk io.WriterAt, after int, random *rand.Rand) error {
	flushed := 0
	for k, e := range l.entries[:after] {
		if e.flags&flagFlush != 0 {
			flushed = k
		}
	}
	for k, e := range l.entries[:after] {
		if len(e.data) == 0 || k >= flushed && e.flags&flagFUA == 0 && random.IntN(2) == 0 {
			continue
		}
		if _, err := disk.WriteAt(e.data, e.at); err != nil {
			return fmt.Errorf("make a disk from a log of writes: %w", err)
		}
	}
	return nil
}
