package output

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// TestLZ4Blocks writes what takes several blocks, of which one cannot be compressed.
func TestLZ4Blocks(t *testing.T) {
	plain := bytes.Repeat([]byte("the same again, "), (2*lz4Block+1000)/16)
	source := rand.NewChaCha8([32]byte{})
	noise := make([]byte, lz4Block+500)
	_, _ = source.Read(noise)
	plain = append(plain, noise...)

	var packed bytes.Buffer
	z := newLZ4(&packed)
	first := plain[:len(plain)-len(noise)]
	for len(first) > 0 {
		n := min(1<<18, len(first))
		if written, err := z.Write(first[:n]); err != nil || written != n {
			t.Fatalf("wrote %d of %d: %v", written, n, err)
		}
		first = first[n:]
	}
	// Flush leaves nothing, and nothing to do for a second one.
	for range 2 {
		if err := z.Flush(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(lz4.NewReader(bytes.NewReader(packed.Bytes())))
		if err != nil || !bytes.Equal(got, plain[:len(plain)-len(noise)]) {
			t.Fatalf("after Flush it unpacks to %d bytes, %v", len(got), err)
		}
	}
	if _, err := z.Write(noise); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(lz4.NewReader(bytes.NewReader(packed.Bytes())))
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("unpacks to %d bytes, want the %d that were written; %v", len(got), len(plain), err)
	}
	// The kernel has room for a block of 8 MiB, and takes a length as it comes.
	b := packed.Bytes()
	if binary.LittleEndian.Uint32(b) != lz4Magic {
		t.Fatalf("begins with % x", b[:4])
	}
	blocks := 0
	for b = b[4:]; len(b) > 0; blocks++ {
		n := binary.LittleEndian.Uint32(b)
		if n == 0 || int(n) > len(b)-4 || int(n) > lz4.CompressBlockBound(lz4Block) {
			t.Fatalf("block %d has %d bytes, and %d are left", blocks, n, len(b)-4)
		}
		b = b[4+n:]
	}
	if blocks != 5 {
		t.Errorf("%d blocks, want 5", blocks)
	}
}
