// Package power listens for the power button.
//
// A button is an input device that can send KEY_POWER: the ACPI button of a
// virtual machine (kernel modules button and evdev), or one on a board
// (gpio_keys). It promises one Pressed for each press, from whichever device, and
// to find buttons whose device or driver comes late. It decides nothing: what a
// press means is its owner's business.
package power

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From linux/input-event-codes.h.
const (
	evKey    = 0x01
	keyPower = 116
	keyMax   = 0x2ff
)

// eventSize is the size of struct input_event on this machine: a struct timeval,
// then type, code and value.
const eventSize = int(unsafe.Sizeof(unix.Timeval{})) + 8

// Buttons are the open power buttons.
type Buttons struct {
	// Pressed receives the name of the device a button was pressed on. A press
	// while an earlier one has not been received adds nothing to it.
	Pressed <-chan string

	pressed chan string
	dir     string
	isPower func(*os.File) bool

	mu     sync.Mutex
	open   map[string]*os.File // by path; guarded by mu
	closed bool                // guarded by mu
	wait   sync.WaitGroup
}

// Listen opens the power buttons that are there now. It is no error if there are
// none: call Rescan when input devices appear.
func Listen() *Buttons { return listen("/dev/input", isPowerButton) }

func listen(dir string, isPower func(*os.File) bool) *Buttons {
	b := &Buttons{pressed: make(chan string, 1), dir: dir, isPower: isPower, open: map[string]*os.File{}}
	b.Pressed = b.pressed
	b.Rescan()
	return b
}

// Rescan opens the power buttons that are new, and returns how many there are in
// all.
func (b *Buttons) Rescan() int {
	paths, _ := filepath.Glob(filepath.Join(b.dir, "event*"))
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0
	}
	for _, path := range paths {
		if b.open[path] != nil {
			continue
		}
		// nonblocking: Go's poller waits, and Close ends the wait
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // went away, or somebody else's node
		}
		if !b.isPower(f) {
			_ = f.Close()
			continue
		}
		b.open[path] = f
		b.wait.Go(func() { b.follow(path, f) })
	}
	return len(b.open)
}

// Close stops listening and waits for its goroutines.
func (b *Buttons) Close() error {
	b.mu.Lock()
	b.closed = true
	var errs []error
	for _, f := range b.open {
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			errs = append(errs, fmt.Errorf("close a power button: %w", err))
		}
	}
	b.mu.Unlock()
	b.wait.Wait()
	return errors.Join(errs...)
}

// follow reads one device until it is closed or goes away.
func (b *Buttons) follow(path string, f *os.File) {
	defer func() {
		b.mu.Lock()
		delete(b.open, path)
		b.mu.Unlock()
		_ = f.Close()
	}()
	buf := make([]byte, 64*eventSize)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		if presses(buf[:n]) {
			select {
			case b.pressed <- strings.TrimPrefix(path, "/dev/"):
			default:
			}
		}
	}
}

// presses reports whether the power key goes down in a run of input_events.
// Value 1 is down, 0 up, 2 repeat.
func presses(events []byte) bool {
	for ; len(events) >= eventSize; events = events[eventSize:] {
		e := events[eventSize-8 : eventSize]
		if binary.NativeEndian.Uint16(e) == evKey && binary.NativeEndian.Uint16(e[2:]) == keyPower && binary.NativeEndian.Uint32(e[4:]) == 1 {
			return true
		}
	}
	return false
}

// isPowerButton asks which keys the device can send (EVIOCGBIT) and whether the
// power key is one. A keyboard may have one too, and is listened to as well.
func isPowerButton(f *os.File) bool {
	var keys [keyMax/8 + 1]byte
	// _IOC(_IOC_READ, 'E', 0x20 + ev, len)
	request := uintptr(2)<<30 | uintptr(len(keys))<<16 | uintptr('E')<<8 | (0x20 + evKey)
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	var errno unix.Errno
	err = conn.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&keys[0])))
	})
	return err == nil && errno == 0 && keys[keyPower/8]&(1<<(keyPower%8)) != 0
}
