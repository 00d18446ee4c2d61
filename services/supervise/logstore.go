package supervise

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
	"keelson/internal/bundle"
	"keelson/internal/console"
	"keelson/onboot"
	"keelson/services/capture"
	"keelson/services/logs"
	"keelson/services/spool"
)

// logShare is the part of the RAM that is for logs in memory, and again for log
// files on file systems in memory.
const logShare = 20

// openLogs makes the store of the machine's logs and what fills it. The store is on
// a file system of its own, so that logs cannot fill /run, nor anybody else their
// room.
func (s *Supervisor) openLogs() {
	warn := func(format string, a ...any) { s.con.Warn("keelson", format, a...) }
	dir := filepath.Join(s.cfg.RunDir, "log")
	bounds, wrong := readLogBounds(s.cfg.Cmdline, memory())
	if !s.resumed {
		for _, err := range wrong {
			warn("%v", err)
		}
	}
	size := bounds.total
	s.logBytes = size
	if err := mountLogs(dir, size); err != nil && !s.cfg.Container {
		warn("logs share the room of %s: %v", s.cfg.RunDir, err)
	}
	s.logs = logs.New(logs.Config{Now: console.Now, Wall: time.Now, Dir: dir, PerSource: bounds.ring, Total: size * 7 / 8, Warn: warn})
	s.capture = capture.New(capture.Config{Spool: s.logs.Spool(), Now: console.Now, Memory: size, Links: s.logLinks()})
}

// logLinks are the links that may be followed on the way to a log file: those of PID 1, and
// of one-shots' logs that are on a disk.
func (s *Supervisor) logLinks() beneath.Links {
	links := maps.Clone(beneath.Machine)
	for _, section := range []bundle.Section{bundle.Onboot, bundle.Onshutdown} {
		links[filepath.Join(s.cfg.OneShotLog, string(section))] = filepath.Join(s.cfg.LogDir, string(section))
	}
	return links
}

// memory is how much RAM the machine has.
func memory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 1 << 30
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// logBounds are how much of the RAM logs may take.
type logBounds struct {
	ring  int64 // for one container
	total int64 // for all together, and again for files on file systems in memory
}

// leastLog is the least that can be asked for: a few segments of a spool.
const leastLog = 512 << 10

// readLogBounds reads the bounds from a kernel command line: keelson.log.ring= and
// keelson.log.total=, in bytes or with K, M or G; the total also in percent of the
// RAM. Each error is about one word, for which the default is in force.
func readLogBounds(cmdline string, ram int64) (b logBounds, wrong []error) {
	b = logBounds{ring: spool.DefaultPerSource, total: ram / logShare}
	for _, word := range strings.Fields(cmdline) {
		name, value, _ := strings.Cut(word, "=")
		var to *int64
		switch name {
		case "keelson.log.ring":
			to = &b.ring
		case "keelson.log.total":
			to = &b.total
		default:
			continue
		}
		n, err := size(value, ram)
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Errorf("kernel command line: %s: want bytes as in 512K, 16M or 1G, or a share of the RAM as in 5%%", word))
		case n < leastLog || n > ram/2:
			wrong = append(wrong, fmt.Errorf("kernel command line: %s: it is from 512K to half of the RAM", word))
		default:
			*to = n
		}
	}
	return b, wrong
}

// size reads a number of bytes.
func size(text string, ram int64) (int64, error) {
	unit := int64(1)
	for suffix, n := range map[string]int64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "%": ram / 100} {
		if before, ok := strings.CutSuffix(strings.ToUpper(text), suffix); ok {
			text, unit = before, n
			break
		}
	}
	n, err := strconv.ParseUint(text, 10, 31)
	return int64(n) * unit, err
}

// mountLogs mounts the store's file system, unless an earlier supervisor has.
func mountLogs(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var own, parent unix.Stat_t
	if err := unix.Stat(dir, &own); err != nil {
		return err
	}
	if err := unix.Stat(filepath.Dir(dir), &parent); err != nil {
		return err
	}
	if own.Dev != parent.Dev {
		return nil
	}
	return unix.Mount("keelson-log", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size="+strconv.FormatInt(size, 10))
}

// openOutput makes the log pipes of a container, and copies them to BASE.log and
// BASE.out.log.
func (s *Supervisor) openOutput(b *bundle.Bundle, base string, drop bool, onLine func(string)) (*capture.Output, error) {
	return s.capture.OpenOutput(capture.OutputConfig{
		Source: b.FullName(), Pipes: filepath.Join(s.cfg.RunDir, "io", b.FullName()), Base: base, Drop: drop, OnLine: onLine,
		Warn: func(format string, a ...any) { s.con.Warn(b.Label(), format, a...) },
	})
}

// logDisk is called when an onboot container may have mounted a disk over the logs'
// folder: what was logged before is to be there too.
func (s *Supervisor) logDisk() {
	for _, section := range []bundle.Section{bundle.Onboot, bundle.Onshutdown} {
		moved, err := s.capture.MoveFolder(filepath.Join(s.cfg.OneShotLog, string(section)), filepath.Join(s.cfg.LogDir, string(section)))
		if err == nil && !moved {
			err = onboot.LinkLogs(s.logLinks(), s.cfg.OneShotLog, s.cfg.LogDir, section)
		}
		if err != nil {
			s.con.Warn("keelson", "%v", err)
		}
	}
	s.capture.Recheck()
}
