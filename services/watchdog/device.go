package watchdog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// device is a watchdog that is armed.
type device interface {
	Identity() string
	Timeout() time.Duration
	Feed() error
}

// errNone says that the machine has no watchdog.
var errNone = errors.New("this machine has no watchdog device")

// paths are where a watchdog is: the first is the first that was registered.
var paths = []string{"/dev/watchdog", "/dev/watchdog0"}

// hardware is the kernel's watchdog device; see Documentation/watchdog/watchdog-api.rst.
type hardware struct {
	file     *os.File
	identity string
	timeout  time.Duration
}

func (h *hardware) Identity() string       { return h.identity }
func (h *hardware) Timeout() time.Duration { return h.timeout }

func (h *hardware) Feed() error {
	return h.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.WDIOC_KEEPALIVE, 0) })
}

func (h *hardware) control(f func(fd int) error) error {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := conn.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// open opens the watchdog, which arms it.
func open() (*os.File, error) {
	err := errNone
	for _, path := range paths {
		if _, serr := os.Stat(path); serr != nil {
			continue
		}
		var f *os.File
		if f, err = os.OpenFile(path, os.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
			return f, nil
		}
		// A node without a driver, as /dev of a container may have it.
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) || errors.Is(err, fs.ErrNotExist) {
			err = errNone
			continue
		}
		return nil, err
	}
	return nil, err
}

// setUp gives an open watchdog its timeout; 0 leaves that as an earlier supervisor
// has set it, because setting it would feed it. What is wrong with it is returned
// beside it: it is armed all the same.
func setUp(f *os.File, timeout time.Duration) (*hardware, error) {
	h := &hardware{file: f, identity: "hardware watchdog", timeout: timeout}
	var info struct {
		options, firmware uint32
		identity          [32]byte
	}
	if err := h.control(func(fd int) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.WDIOC_GETSUPPORT, uintptr(unsafe.Pointer(&info)))
		if errno != 0 {
			return errno
		}
		return nil
	}); err == nil {
		if name, _, _ := bytes.Cut(info.identity[:], []byte{0}); len(name) > 0 {
			h.identity = strings.ToValidUTF8(string(name), "?")
		}
	}
	var wrong error
	if seconds := int((timeout + time.Second - 1) / time.Second); seconds > 0 {
		wrong = h.control(func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, seconds) })
	} else {
		h.timeout = DefaultTimeout
	}
	got := 0
	err := h.control(func(fd int) (err error) { got, err = unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT); return err })
	if err == nil && got > 0 {
		h.timeout = time.Duration(got) * time.Second
	}
	if wrong != nil {
		wrong = fmt.Errorf("its timeout cannot be set to %v: %w; its own is %v", timeout, wrong, h.timeout)
	}
	return h, wrong
}

// Hands are what a supervisor has of PID 1: the socket over which it hands a
// watchdog to it, and the watchdog of an earlier supervisor.
type Hands struct {
	socket int
	held   *os.File
}

// variable is how PID 1 says which descriptors they are.
const variable = "KEELSON_WATCHDOG"

// FromEnv takes over what PID 1 gave this process, which no program that is started
// from here gets. It is to be called once, before any is.
func FromEnv() Hands {
	value := os.Getenv(variable)
	_ = os.Unsetenv(variable)
	var h Hands
	for i, number := range strings.Split(value, ",") {
		fd, err := strconv.Atoi(number)
		if err != nil || fd < 3 || i > 1 {
			break
		}
		unix.CloseOnExec(fd)
		if i == 0 {
			h.socket = fd
		} else {
			h.held = os.NewFile(uintptr(fd), paths[0])
		}
	}
	return h
}

// Keep hands a watchdog to PID 1, which keeps it open.
func (h Hands) Keep(f *os.File) error {
	if h.socket == 0 {
		return errors.New("PID 1 does not take it")
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := conn.Control(func(fd uintptr) {
		err = unix.Sendmsg(h.socket, []byte{0}, unix.UnixRights(int(fd)), nil, unix.MSG_DONTWAIT)
	}); cerr != nil {
		return cerr
	}
	return err
}
