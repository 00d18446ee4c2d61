package output

import (
	"encoding/binary"
	"io"
	"os"
)

// qcow2 writes QEMU's format, version 3 (docs/interop/qcow2.txt of QEMU): the
// clusters that have anything in them, then the tables of where each lies.
type qcow2 struct {
	pieces
	f     *os.File
	size  int64
	next  uint64   // cluster of the file
	where []uint64 // the entry of each cluster of the disk; 0 has none
}

const (
	qcow2Copied     = 1 << 63 // of a table's entry: nobody else uses that cluster
	qcow2PerTable   = pieceSize / 8
	qcow2PerCounts  = pieceSize / 2
	qcow2HeaderSize = 104
)

func newQCOW2(f *os.File, size int64, _ [16]byte) (io.WriteCloser, error) {
	q := &qcow2{f: f, size: size, next: 1} // the header is in front
	q.pieces = newPieces(pieceSize, func(piece []byte) (err error) {
		var entry uint64
		if !nothing(piece) {
			entry, err = q.add(piece)
		}
		q.where = append(q.where, entry)
		return err
	})
	return q, nil
}

// add writes a cluster behind those that are there, and returns a table's entry for it.
func (q *qcow2) add(cluster []byte) (entry uint64, err error) {
	at := q.next * pieceSize
	q.next++
	_, err = q.f.WriteAt(cluster, int64(at))
	return at | qcow2Copied, err
}

// addTable is add for a table.
func (q *qcow2) addTable(entries []uint64) (entry uint64, err error) {
	table := make([]byte, pieceSize)
	for i, e := range entries {
		binary.BigEndian.PutUint64(table[8*i:], e)
	}
	return q.add(table)
}

// Close implements io.Closer.
func (q *qcow2) Close() error {
	var tables []uint64
	for at := 0; at < len(q.where); at += qcow2PerTable {
		entry, err := q.addTable(q.where[at:min(at+qcow2PerTable, len(q.where))])
		if err != nil {
			return err
		}
		tables = append(tables, entry)
	}
	directory, err := q.addTable(tables)
	if err != nil {
		return err
	}
	counts, err := q.count()
	if err != nil {
		return err
	}
	be := binary.BigEndian
	header := make([]byte, pieceSize)
	copy(header, "QFI\xfb\x00\x00\x00\x03")
	be.PutUint32(header[20:], 16) // bits of a cluster's size
	be.PutUint64(header[24:], uint64(q.size))
	be.PutUint32(header[36:], uint32(len(tables)))
	be.PutUint64(header[40:], directory&^qcow2Copied)
	be.PutUint64(header[48:], counts&^qcow2Copied)
	be.PutUint32(header[56:], 1) // clusters of the table of counts
	be.PutUint32(header[96:], 4) // bits of a count, as a power of two
	be.PutUint32(header[100:], qcow2HeaderSize)
	_, err = q.f.WriteAt(header, 0)
	return err
}

// count writes that each cluster of the file is used once, and returns the entry of
// the table that has these counts.
func (q *qcow2) count() (entry uint64, err error) {
	blocks := uint64(1)
	for q.next+blocks+1 > blocks*qcow2PerCounts { // they count themselves and their table
		blocks++
	}
	used := q.next + blocks + 1
	var table []uint64
	for range blocks {
		block := make([]byte, pieceSize)
		n := min(used, qcow2PerCounts)
		for i := range n {
			binary.BigEndian.PutUint16(block[2*i:], 1)
		}
		used -= n
		entry, err := q.add(block)
		if err != nil {
			return 0, err
		}
		table = append(table, entry&^qcow2Copied)
	}
	return q.addTable(table)
}
