package output

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"
)

// Whether these disks are what they ought to be is for others to say: the tests of machines have firmware boot
// them, and the tools of each format look at them. This is about their edges.

func TestESPSizes(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 512, 513, 30 << 20, 128 << 20, 128<<20 + 1, 1 << 30, 1<<32 - 1} {
		e, err := newESP(size)
		if err != nil {
			t.Errorf("%d: %v", size, err)
			continue
		}
		cluster := int64(e.perCluster) * sector
		if e.clusters < 65525 || e.clusters > 0x0ffffff4 {
			t.Errorf("%d: %d clusters are no FAT32", size, e.clusters)
		}
		if room := (int64(e.clusters) - 3) * cluster; room < size {
			t.Errorf("%d: room for %d", size, room)
		}
		if int64(e.perTable)*sector < (int64(e.clusters)+2)*4 {
			t.Errorf("%d: a table of %d sectors is too small for %d clusters", size, e.perTable, e.clusters)
		}
	}
	if _, err := newESP(1 << 32); err == nil || !strings.Contains(err.Error(), "no file of 4 GiB or more") {
		t.Errorf("4 GiB: got %v", err)
	}
}

func TestEFIDisks(t *testing.T) {
	program := bytes.Repeat([]byte("program "), 1000)
	for name, write := range map[string]func(*bytes.Buffer, []byte) error{
		"disk": func(b *bytes.Buffer, p []byte) error { return EFIDisk(b, p) },
		"CD":   func(b *bytes.Buffer, p []byte) error { return EFICD(b, p) },
	} {
		var one, same, other bytes.Buffer
		for b, p := range map[*bytes.Buffer][]byte{&one: program, &same: program, &other: program[1:]} {
			if err := write(b, p); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(one.Bytes(), same.Bytes()) {
			t.Errorf("%s: the same program gave other bytes", name)
		}
		const diskID = sector + 56
		if bytes.Equal(one.Bytes()[diskID:diskID+16], other.Bytes()[diskID:diskID+16]) {
			t.Errorf("%s: another program has the same identifier", name)
		}
		disk := one.Bytes()
		if len(disk)%(1<<20) != 0 {
			t.Errorf("%s: %d bytes are no whole megabytes", name, len(disk))
		}
		checkGPT(t, name, disk)
		if at := bytes.Index(disk, program); at < 0 || at%sector != 0 {
			t.Errorf("%s: the program is at %d", name, at)
		}
	}
}

// checkGPT looks at the header in front and at its copy.
func checkGPT(t *testing.T, name string, disk []byte) {
	t.Helper()
	le := binary.LittleEndian
	for _, at := range []int{sector, len(disk) - sector} {
		h := bytes.Clone(disk[at : at+92])
		if string(h[:8]) != "EFI PART" || int(le.Uint64(h[24:]))*sector != at {
			t.Errorf("%s: no header at %d, or it says it is elsewhere", name, at)
			continue
		}
		sum := le.Uint32(h[16:])
		clear(h[16:20])
		if crc32.ChecksumIEEE(h) != sum {
			t.Errorf("%s: the header at %d has another checksum", name, at)
		}
		entries := disk[le.Uint64(h[72:])*sector:][:128*128]
		if crc32.ChecksumIEEE(entries) != le.Uint32(h[88:]) {
			t.Errorf("%s: the table of the header at %d has another checksum", name, at)
		}
		first, last := le.Uint64(entries[32:]), le.Uint64(entries[40:])
		if first < le.Uint64(h[40:]) || last > le.Uint64(h[48:]) || first > last {
			t.Errorf("%s: a partition from %d to %d", name, first, last)
		}
	}
}

func TestTooLargeForFirmware(t *testing.T) {
	if err := ukiFits(1<<31 - 1); err != nil {
		t.Error(err)
	}
	if err := ukiFits(1 << 31); err == nil || !strings.Contains(err.Error(), "smaller than 2 GiB") {
		t.Errorf("got %v", err)
	}
}
