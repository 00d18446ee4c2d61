package modules

import (
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// scanner finds the devices' modaliases. It does not walk /sys/devices, which has
// a hundred folders for each device: a device with a modalias is on a bus, or in
// one of two classes. (The processor is neither; see Processor.)
type scanner struct {
	sys   string
	seen  map[string]bool // devices whose alias was read
	known map[string]bool // aliases returned
	buf   []byte
}

// classes have devices with a modalias and no bus.
var classes = []string{"class/input", "class/dmi"}

func newScanner(root string) *scanner {
	return &scanner{sys: filepath.Join(root, "/sys"), seen: map[string]bool{}, known: map[string]bool{}, buf: make([]byte, 4096)}
}

// fresh returns the aliases that the last call did not see: bus by bus in the
// order of their names, and so are the devices.
func (s *scanner) fresh() []string {
	var aliases []string
	for _, bus := range names(filepath.Join(s.sys, "bus")) {
		aliases = s.folder(aliases, filepath.Join(s.sys, "bus", bus, "devices"))
	}
	for _, class := range classes {
		aliases = s.folder(aliases, filepath.Join(s.sys, class))
	}
	return aliases
}

func (s *scanner) folder(aliases []string, dir string) []string {
	devices := names(dir)
	if len(devices) == 0 {
		return aliases
	}
	// from here on by short names: the kernel need not walk the path again for each
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return aliases
	}
	defer unix.Close(fd)
	for _, name := range devices {
		id := dir + "/" + name
		if s.seen[id] {
			continue
		}
		// Not seen is what has no alias: a device just being made may get it yet.
		alias := s.read(fd, name+"/modalias")
		if alias == "" {
			continue
		}
		s.seen[id] = true
		if !s.known[alias] {
			s.known[alias] = true
			aliases = append(aliases, alias)
		}
	}
	return aliases
}

// read returns the line in a file of sysfs, which never is longer than a page;
// empty where there is none.
func (s *scanner) read(dir int, path string) string {
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, s.buf)
	if err != nil || n <= 0 {
		return ""
	}
	line := s.buf[:n]
	if line[n-1] == '\n' {
		line = line[:n-1]
	}
	return string(line)
}

func names(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	all, _ := f.Readdirnames(-1)
	slices.Sort(all)
	return all
}
