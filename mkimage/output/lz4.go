package output

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/pierrec/lz4/v4"
)

// The legacy format of LZ4 is the one that the kernel unpacks: a magic number, then
// blocks that stand for themselves, each with its length in front.
const (
	lz4Magic = 0x184C2102
	lz4Block = 8 << 20 // what a block unpacks to at most
	// lz4Level is the one beyond which a root becomes less than 0.1 % smaller.
	lz4Level = lz4.Level4
)

// lz4Writer compresses two blocks at a time. Where a block ends depends on what is
// written and on Flush, never on the number of processors: the bytes repeat.
type lz4Writer struct {
	w     io.Writer
	plain []byte // less than two blocks
	begun bool
}

func newLZ4(w io.Writer) *lz4Writer {
	return &lz4Writer{w: w, plain: make([]byte, 0, 2*lz4Block)}
}

func (z *lz4Writer) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		n := min(len(b), cap(z.plain)-len(z.plain))
		z.plain = append(z.plain, b[:n]...)
		written, b = written+n, b[n:]
		if len(z.plain) == cap(z.plain) {
			if err := z.Flush(); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// begin writes the magic number, once.
func (z *lz4Writer) begin() error {
	if z.begun {
		return nil
	}
	z.begun = true
	_, err := z.w.Write(binary.LittleEndian.AppendUint32(nil, lz4Magic))
	return err
}

// Flush ends a block, if one has begun.
func (z *lz4Writer) Flush() error {
	if len(z.plain) == 0 {
		return nil
	}
	if err := z.begin(); err != nil {
		return err
	}
	var packed [2][]byte
	var errs [2]error
	var wait sync.WaitGroup
	for i := range packed {
		block := z.plain[min(i*lz4Block, len(z.plain)):min((i+1)*lz4Block, len(z.plain))]
		if len(block) > 0 {
			wait.Go(func() { packed[i], errs[i] = packLZ4(block) })
		}
	}
	wait.Wait()
	z.plain = z.plain[:0]
	for i, block := range packed {
		if errs[i] != nil {
			return fmt.Errorf("compress with LZ4: %w", errs[i])
		}
		if _, err := z.w.Write(block); err != nil {
			return err
		}
	}
	return nil
}

// packLZ4 returns a block with its length in front. There is room for one that becomes
// larger, since the format has no other form for it.
func packLZ4(block []byte) ([]byte, error) {
	packed := make([]byte, 4+lz4.CompressBlockBound(len(block)))
	n, err := lz4.CompressBlockHC(block, packed[4:], lz4Level, nil, nil)
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint32(packed, uint32(n))
	return packed[:4+n], nil
}

func (z *lz4Writer) Close() error {
	if err := z.begin(); err != nil {
		return err
	}
	return z.Flush()
}
