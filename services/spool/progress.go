package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// progressName is the file of a stream that says how far its last segment has been written.
const progressName = "progress"

// progress says how far the last segment has been written, where the size of its file
// does not: one that is written over has the old bytes behind the new ones. It is a
// mapped file, so that splice(2) itself, which writes back the offset it has come to,
// leaves it there before a process that is killed meanwhile can end.
type progress struct {
	page *[pageBytes]byte
}

// makeProgress makes that of a stream.
func makeProgress(dir string) (*progress, error) {
	f, err := openFile(filepath.Join(dir, progressName), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Now, and not when it is written through the mapping, is when it must not lack room.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, pageBytes); err != nil {
		_ = unix.Unlink(f.Name())
		return nil, fmt.Errorf("make room for %s: %w", f.Name(), err)
	}
	return mapProgress(f)
}

// findProgress returns what an earlier process has made, nil if that is about nothing.
func findProgress(dir string) (*progress, error) {
	f, err := openFile(filepath.Join(dir, progressName), os.O_RDWR)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() < pageBytes { // it died as it made it
		_ = unix.Unlink(f.Name())
		return nil, nil
	}
	return mapProgress(f)
}

func mapProgress(f *os.File) (*progress, error) {
	m, err := unix.Mmap(int(f.Fd()), 0, pageBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	_ = unix.Mlock(m) // whoever dies gets no page from swap
	return &progress{page: (*[pageBytes]byte)(m)}, nil
}

// base is the base of the segment it is about, and one more: a new page is about none.
func (p *progress) base() *int64 { return (*int64)(unsafe.Pointer(&p.page[0])) }

// size is how far that has been written.
func (p *progress) size() *int64 { return (*int64)(unsafe.Pointer(&p.page[8])) }

// begin makes it, if there is one, about a segment of which so much has been written. A
// death on the way leaves it about none: the size of the last segment's file must be
// right then.
func (p *progress) begin(base, size int64) {
	if p == nil {
		return
	}
	atomic.StoreInt64(p.base(), 0)
	atomic.StoreInt64(p.size(), size)
	atomic.StoreInt64(p.base(), base+1)
}

// set notes, if there is one, how far the segment has been written.
func (p *progress) set(size int64) {
	if p != nil {
		atomic.StoreInt64(p.size(), size)
	}
}

// of returns how far a segment has been written, if it is the one this is about.
func (p *progress) of(base int64) (size int64, ok bool) {
	if p == nil || atomic.LoadInt64(p.base()) != base+1 {
		return 0, false
	}
	return atomic.LoadInt64(p.size()), true
}

func (p *progress) close() { _ = unix.Munmap(p.page[:]) }
