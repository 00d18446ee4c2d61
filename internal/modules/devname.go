package modules

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// node is one line of modules.devname: a device node that exists before its
// module is loaded, and loads it by being opened.
type node struct {
	module, name string
	mode         uint32 // S_IFCHR or S_IFBLK
	major, minor uint32
}

// parseDevname reads lines "MODULE NODE cMAJOR:MINOR".
func parseDevname(text string) []node {
	var nodes []node
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 || strings.HasPrefix(f[0], "#") || len(f[2]) < 4 || !filepath.IsLocal(f[1]) {
			continue
		}
		n := node{module: f[0], name: f[1]}
		switch f[2][0] {
		case 'c':
			n.mode = unix.S_IFCHR
		case 'b':
			n.mode = unix.S_IFBLK
		default:
			continue
		}
		major, minor, _ := strings.Cut(f[2][1:], ":")
		a, errA := strconv.ParseUint(major, 10, 12)
		b, errB := strconv.ParseUint(minor, 10, 20)
		if errA != nil || errB != nil {
			continue
		}
		n.major, n.minor = uint32(a), uint32(b)
		nodes = append(nodes, n)
	}
	return nodes
}

// StaticNodes makes the device nodes below dev (usually /dev) whose modules load
// when a node is opened, /dev/net/tun, /dev/fuse and /dev/loop-control among
// them, with mode 0600 as the kernel makes its own. Nodes that are there stay.
func (x *Index) StaticNodes(dev string) error {
	if x.dir == "" {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(x.dir, "modules.devname"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make the device nodes of modules: %w", err)
	}
	var errs []error
	for _, n := range parseDevname(string(text)) {
		path := filepath.Join(dev, n.name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = unix.Mknod(path, n.mode|0o600, int(unix.Mkdev(n.major, n.minor)))
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("make %s for module %s: %w", path, n.module, err))
		}
	}
	return errors.Join(errs...)
}
