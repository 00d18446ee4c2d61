package ceiling

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// container is one that may be killed, as the choice sees it.
type container struct {
	dir    string // its cgroup
	adj    int    // oom_score_adj of its first process
	alone  bool   // memory.oom.group is 0
	making bool   // a process is being made in it

	used   uint64 // bytes that the kernel cannot take back
	files  uint64 // of these, at most what is in files in memory
	root   uint64 // of these, in its own root
	shares bool   // it sees a file system in memory that stays when it is killed
}

// living is how much of the shared files belongs to containers that live. What dead
// ones wrote is charged to the parent of all.
func living(shared, parent uint64, all []container) uint64 {
	for _, c := range all {
		parent -= min(c.files, parent)
	}
	return shared - min(parent, shared)
}

// stays is how much of a container's memory its exit does not free: its part of the
// shared files. The kernel does not tell who wrote which file, so each of those that
// see them has the part that it has of all their files outside of their roots.
func stays(c container, shared uint64, all []container) uint64 {
	if !c.shares {
		return 0
	}
	outside := func(c container) uint64 { return c.files - min(c.root, c.files) }
	sum := uint64(0)
	for _, other := range all {
		if other.shares {
			sum += outside(other)
		}
	}
	if sum == 0 {
		return 0
	}
	return min(uint64(float64(outside(c))*float64(shared)/float64(sum)), outside(c))
}

// verdict is what to do when memory is short.
type verdict struct {
	kill  string // the cgroup to kill; "" where there is none, or the kernel is to choose
	frees uint64 // what that gives back
	start bool   // a container that is being made needs room instead
}

// choose returns what to do when containers have used up their memory, of which shared
// bytes are in files that stay. It kills the container whose exit frees most, with its
// oom_score_adj taken into account as the kernel does; never one with -1000, nor one that
// gives back nothing. Where a container whose memory.oom.group is 0 has most, the kernel
// chooses: the YAML has it so, and no neighbour is to pay for that. What the runtime takes
// to make a process in a container does not count: if nobody frees much, that gets the
// room up to the limit.
func choose(limit, shared uint64, all []container) verdict {
	var best verdict
	alone, making := false, false
	most := int64(0)
	for _, c := range all {
		making = making || c.making
		frees := c.used - min(stays(c, shared, all), c.used)
		if c.making {
			frees -= min(frees, startRoom)
		}
		if c.adj <= -1000 || frees == 0 {
			continue
		}
		if points := int64(frees) + int64(c.adj)*int64(limit)/1000; points > most {
			best.kill, best.frees, alone, most = c.dir, frees, c.alone, points
		}
	}
	switch {
	case making && best.frees < limit/16:
		return verdict{start: true}
	case alone:
		return verdict{}
	}
	return best
}

// choose is the verdict on the containers as they are.
func (g *Guard) choose() verdict {
	shared := g.shared()
	all := g.containers(shared)
	return choose(g.Limit, living(size(shared), usage(g.file("")).files, all), all)
}

// containers returns those that have processes.
func (g *Guard) containers(shared []shared) []container {
	var all []container
	for _, pattern := range []string{"*", ".*/*"} {
		files, _ := filepath.Glob(filepath.Join(g.Root, Group, pattern, "cgroup.kill"))
		for _, file := range files {
			dir := filepath.Dir(file)
			if strings.HasPrefix(filepath.Base(dir), ".") {
				continue
			}
			if c, alive := g.container(dir, shared); alive {
				all = append(all, c)
			}
		}
	}
	return all
}

// container is the container of a cgroup, and whether it has processes.
func (g *Guard) container(dir string, shared []shared) (c container, alive bool) {
	c = container{dir: dir, alone: number(filepath.Join(dir, "memory.oom.group")) == 0}
	c.making = g.Making(dir)
	use := usage(dir)
	c.used, c.files = use.used, use.files
	procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	pid, _, ok := strings.Cut(string(procs), "\n")
	if !ok {
		c.shares = true
		return c, number(filepath.Join(dir, "pids.current")) > 0 // they may be in cgroups below it
	}
	c.root = rootSize(filepath.Join(g.Proc, pid, "root"))
	text, _ := os.ReadFile(filepath.Join(g.Proc, pid, "oom_score_adj"))
	c.adj, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	c.shares = sees(filepath.Join(g.Proc, pid, "mountinfo"), shared)
	return c, true
}

// rootSize is what a process's root has in memory: of an overlay the kernel tells what
// is in use where it is written to. A root of another kind cannot be written to.
func rootSize(path string) uint64 {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil || st.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return 0
	}
	return (st.Blocks-st.Bfree)*uint64(st.Bsize) + (st.Files-st.Ffree)*fileCost
}

// maxTable is how much is read of a table of mounts, which may be as long as its
// container likes.
const maxTable = 256 * kib

// sees reports whether a process sees one of these file systems, by its table of mounts,
// as itself or as where an overlay is written to, which is what a volume is. One whose
// table cannot be read may.
func sees(path string, shared []shared) bool {
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer f.Close()
	table, err := io.ReadAll(io.LimitReader(f, maxTable))
	if err != nil || len(table) == maxTable {
		return true
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		for _, s := range shared {
			if len(f) > 2 && f[2] == s.device || strings.Contains(line, ",upperdir="+s.path+"/") {
				return true
			}
		}
	}
	return false
}
