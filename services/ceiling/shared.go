package ceiling

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shared is a file system in memory that stays when a container is ended.
type shared struct {
	path         string
	device       string // as tables of mounts have it
	bytes, files uint64 // in use
}

// own are file systems in memory that containers do not write to, or that go with
// a container: what the machine needs itself, and the roots of containers.
var own = []string{"/run/keelson", "/run/containerd", "/dev", "/sys", "/proc", "/containers/services", "/containers/onboot", "/containers/onshutdown"}

// shared returns those file systems as they are, the largest first.
func (g *Guard) shared() []shared {
	table, err := os.ReadFile(filepath.Join(g.Proc, "self/mountinfo"))
	if err != nil {
		return nil
	}
	var all []shared
	for _, s := range tmpfs(string(table)) {
		at, err := s.open()
		if err != nil {
			continue
		}
		var st unix.Statfs_t
		err = unix.Fstatfs(at, &st)
		_ = unix.Close(at)
		if err != nil || st.Type != unix.TMPFS_MAGIC {
			continue
		}
		s.bytes, s.files = (st.Blocks-st.Bfree)*uint64(st.Bsize), st.Files-st.Ffree
		all = append(all, s)
	}
	return all
}

// size is what they take, with what their files take beside their contents.
func size(all []shared) (sum uint64) {
	for _, s := range all {
		sum += s.bytes + s.files*fileCost
	}
	return sum
}

// tmpfs returns where the file systems of a table of mounts are mounted that are
// shared, each once.
func tmpfs(table string) (all []shared) {
	seen := map[string]bool{}
next:
	for line := range strings.Lines(table) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if len(f) < 6 || !strings.HasPrefix(after, "tmpfs ") || f[3] != "/" || f[4] == "/" || seen[f[2]] {
			continue
		}
		for _, dir := range own {
			if f[4] != "/dev/shm" && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
				continue next
			}
		}
		seen[f[2]] = true
		all = append(all, shared{path: unescape.Replace(f[4]), device: f[2]})
	}
	return all
}

// unescape is what mountinfo has for the characters that separate its fields.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// boundFiles makes file systems hardly larger than what they hold.
func boundFiles(all []shared, spare uint64) error {
	var errs []error
	for _, s := range all {
		if err := s.bound(spare); err != nil {
			errs = append(errs, fmt.Errorf("bound %s: %w", s.path, err))
		}
	}
	return errors.Join(errs...)
}

// boundTries is how often it is tried to bound a file system, in case it is being filled.
const boundTries = 5

// spare is how many bytes can still be written to a file system that was bounded, and
// a file for each KiB of it be made: locks, sockets and files of process numbers.
func spare(limit uint64) uint64 { return min(256*kib, limit/128) }

func (s shared) bound(spare uint64) (err error) {
	at, err := s.open()
	if err != nil {
		return err
	}
	defer unix.Close(at)
	path := "/proc/self/fd/" + strconv.Itoa(at)
	for range boundTries {
		var st unix.Statfs_t
		if err = unix.Fstatfs(at, &st); err != nil {
			return err
		}
		if st.Blocks == 0 {
			return nil // size=0: made to have no bound, and tells nothing
		}
		flags := unix.MS_REMOUNT | mountFlags(st.Flags)
		used := (st.Blocks - st.Bfree) * uint64(st.Bsize)
		if err = unix.Mount("", path, "", flags, "size="+strconv.FormatUint(min(used+spare+used/64, st.Blocks*uint64(st.Bsize)), 10)); errors.Is(err, unix.EINVAL) {
			continue // it has grown meanwhile
		}
		// Alone: one that was made without a bound of files takes none.
		_ = unix.Mount("", path, "", flags, "nr_inodes="+strconv.FormatUint(st.Files-st.Ffree+spare/kib, 10))
		return err
	}
	return err
}

// open opens where the file system is mounted. Its path may lead elsewhere by now, where a
// container can change what lies above it.
func (s shared) open() (fd int, err error) {
	fd, err = unix.Open(s.path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)) != s.device {
		err = errors.New("another file system is there")
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mountFlags are the flags of a mount, which a remount would take away: statfs(2)
// numbers two of them differently from mount(2).
func mountFlags(statfs int64) uintptr {
	flags := uintptr(statfs) & (unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_SYNCHRONOUS | unix.MS_NOATIME | unix.MS_NODIRATIME)
	if statfs&unix.ST_RELATIME != 0 {
		flags |= unix.MS_RELATIME
	}
	return flags
}

// names are the largest of these file systems, for people.
func names(all []shared) string {
	var words []string
	for _, s := range all {
		if s.bytes >= mib {
			words = append(words, fmt.Sprintf("%s %d MiB", s.path, s.bytes/mib))
		}
	}
	return strings.Join(words, ", ")
}
