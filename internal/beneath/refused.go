package beneath

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Reason is why something is refused. Each is an error for errors.Is.
type Reason string

func (r Reason) Error() string { return string(r) }

// The reasons.
const (
	Link  Reason = "is a symbolic link"
	Kind  Reason = "is not of the right kind"
	Owner Reason = "belongs to somebody else"
	Names Reason = "has more than one name"
)

// Refused is what is in the way, which has not been touched.
type Refused struct {
	Path   string
	Reason Reason

	target string // of a link
	mode   uint32 // of what is of the wrong kind
	want   uint32 // the kind it should be of, 0 for a regular file
	uid    uint32
	names  uint64
}

// Error names the path and says what it is.
func (r *Refused) Error() string { return r.Path + " " + r.What() }

// What says what it is, without its path.
func (r *Refused) What() string {
	switch r.Reason {
	case Link:
		return fmt.Sprintf("is a symbolic link to %q", r.target)
	case Kind:
		want := "a regular file"
		if r.want != 0 {
			want = kind(r.want)
		}
		return fmt.Sprintf("is %s, not %s", kind(r.mode), want)
	case Owner:
		return fmt.Sprintf("belongs to uid %d", r.uid)
	case Names:
		return fmt.Sprintf("has %d names (hard links)", r.names)
	}
	return string(r.Reason)
}

// Is makes errors.Is compare with a reason.
func (r *Refused) Is(target error) bool {
	reason, ok := target.(Reason)
	return ok && reason == r.Reason
}

// IsRefused reports whether an error says that something is in the way.
func IsRefused(err error) bool {
	_, ok := errors.AsType[*Refused](err)
	return ok
}

func kind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a file"
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	}
	return "something else"
}
