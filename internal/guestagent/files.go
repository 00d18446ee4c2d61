package guestagent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func describe(path string) (File, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return File{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	file := File{
		Name: filepath.Base(path), Mode: st.Mode, UID: int(st.Uid), GID: int(st.Gid), Size: st.Size,
		Inode: st.Ino, Device: st.Dev, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		file.Link, _ = os.Readlink(path)
	}
	return file, nil
}

func list(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := make([]File, 0, len(entries))
	for _, entry := range entries {
		// A file that went away in between was not there.
		if file, err := describe(filepath.Join(dir, entry.Name())); err == nil {
			files = append(files, file)
		}
	}
	return files, nil
}

// processes reads /proc, which is the machine's: the agent runs in the machine's PID namespace.
func processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if process, err := inspect(pid); err == nil {
			all = append(all, process)
		}
	}
	return all, nil
}

// inspect reads one process's files; see proc(5) for their forms.
func inspect(pid int) (Process, error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Process{}, err
	}
	// "pid (name) state parent ...": the name may hold anything, a closing parenthesis too.
	open, shut := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || shut < open {
		return Process{}, fmt.Errorf("%s/stat: not as expected", dir)
	}
	fields := strings.Fields(string(stat[shut+1:]))
	if len(fields) < 22 {
		return Process{}, fmt.Errorf("%s/stat: not as expected", dir)
	}
	process := Process{PID: pid, Name: string(stat[open+1 : shut]), State: fields[0]}
	process.Parent, _ = strconv.Atoi(fields[1])
	pages, _ := strconv.ParseInt(fields[21], 10, 64)
	process.RSS = pages * int64(os.Getpagesize())
	if argv, err := os.ReadFile(dir + "/cmdline"); err == nil && len(argv) > 0 {
		process.Argv = strings.Split(strings.TrimSuffix(string(argv), "\x00"), "\x00")
	}
	if cgroup, err := os.ReadFile(dir + "/cgroup"); err == nil {
		for line := range strings.Lines(string(cgroup)) {
			if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
				process.Cgroup = path
			}
		}
	}
	return process, nil
}
