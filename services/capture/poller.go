package capture

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// pollBatch is how many pipes are told of at once.
const pollBatch = 32

// poller tells streams that there is something in their pipes: each once, until it
// asks again. Go's own poller would be woken by every write to a pipe, whether anybody
// waits for it or not, which costs a writer of short lines more than its write does.
type poller struct {
	mu      sync.Mutex
	fd      int               // an epoll, where file is not nil; guarded by mu
	file    *os.File          // the same, watched by Go's poller; guarded by mu
	streams map[int32]*Stream // by number, guarded by mu
	last    int32             // number given, guarded by mu
}

// add makes a pipe known and returns its number. Its stream is told when it has asked.
func (p *poller) add(s *Stream, fifo int) (int32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file == nil {
		if err := p.open(); err != nil {
			return 0, fmt.Errorf("watch the log pipes: %w", err)
		}
	}
	p.last++
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fifo, &unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: p.last}); err != nil {
		p.closeIdle()
		return 0, fmt.Errorf("watch a log pipe: %w", err)
	}
	p.streams[p.last] = s
	return p.last, nil
}

func (p *poller) open() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else Go does not watch it
		_ = unix.Close(fd)
		return err
	}
	file := os.NewFile(uintptr(fd), "epoll")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return err
	}
	p.fd, p.file, p.streams = fd, file, map[int32]*Stream{}
	go p.run(conn)
	return nil
}

// run tells streams until the epoll is closed.
func (p *poller) run(conn syscall.RawConn) {
	var events [pollBatch]unix.EpollEvent
	for {
		n := 0
		if err := conn.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		}); err != nil {
			return
		}
		p.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			if s := p.streams[e.Fd]; s != nil {
				select {
				case s.ready <- struct{}{}:
				default:
				}
			}
		}
		p.mu.Unlock()
	}
}

// ask has a stream told as soon as there is something in its pipe, if there is not
// already.
func (p *poller) ask(number int32, fifo int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fifo, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: number})
}

// remove forgets a pipe, which is still open.
func (p *poller) remove(number int32, fifo int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fifo, nil)
	delete(p.streams, number)
	p.closeIdle()
}

func (p *poller) closeIdle() {
	if len(p.streams) == 0 {
		_ = p.file.Close()
		p.file = nil
	}
}
