package writelog

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// image writes to a slice, as to a disk.
type image []byte

func (i image) WriteAt(b []byte, at int64) (int, error) { return copy(i[at:], b), nil }

// made is a log with one sector's write, a flush, two more writes of which the last is forced, and a discard.
func made() []byte {
	const sector = 512
	log := make([]byte, sector)
	binary.LittleEndian.PutUint64(log, magic)
	binary.LittleEndian.PutUint64(log[8:], 1)
	binary.LittleEndian.PutUint64(log[16:], 5)
	binary.LittleEndian.PutUint32(log[24:], sector)
	add := func(at, count, flags uint64, fill byte) {
		head := make([]byte, sector)
		binary.LittleEndian.PutUint64(head, at)
		binary.LittleEndian.PutUint64(head[8:], count)
		binary.LittleEndian.PutUint64(head[16:], flags)
		log = append(log, head...)
		if flags&flagDiscard == 0 {
			log = append(log, bytes.Repeat([]byte{fill}, int(count)*sector)...)
		}
	}
	add(0, 1, 0, 'a')
	add(0, 0, flagFlush, 0)
	add(1, 1, 0, 'b')
	add(0, 4, flagDiscard, 0)
	add(2, 1, flagFUA, 'c')
	return log
}

func TestCut(t *testing.T) {
	log, err := Read(bytes.NewReader(made()))
	if err != nil {
		t.Fatal(err)
	}
	if log.Len() != 5 {
		t.Fatalf("%d entries", log.Len())
	}
	seen := map[string]bool{}
	for seed := range uint64(50) {
		disk := make(image, 4*512)
		if err := log.Cut(disk, 5, rand.New(rand.NewPCG(seed, 0))); err != nil {
			t.Fatal(err)
		}
		seen[string([]byte{disk[0], disk[512], disk[1024], disk[1536]})] = true
	}
	if len(seen) != 2 || !seen["abc\x00"] || !seen["a\x00c\x00"] {
		t.Errorf("after all of it the disk may be %v", seen)
	}
	disk := make(image, 4*512)
	if err := log.Cut(disk, 2, rand.New(rand.NewPCG(1, 0))); err != nil {
		t.Fatal(err)
	}
	if disk[0] != 'a' || disk[512] != 0 {
		t.Error("what was flushed is not there, or what was not yet written is")
	}
}

func TestReadRefuses(t *testing.T) {
	log := made()
	for name, data := range map[string][]byte{"empty": nil, "another file": make([]byte, 4096), "cut short": log[:len(log)-1]} {
		if _, err := Read(bytes.NewReader(data)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
