// Package devicefilter loads one eBPF program for all containers with the same device
// rules.
//
// On cgroup v2 the device rules of a container are a program that the kernel verifies,
// blinds and compiles. libcontainer loads one for each container, though nearly all of
// them have the same rules. Here the program that libcontainer has attached to the first
// cgroup with certain rules is attached to the next ones.
//
// It promises that only a cgroup without a program is given one this way: a cgroup whose
// rules change, or which has a program already, is libcontainer's. Where anything fails,
// libcontainer does it, and reports what is wrong.
package devicefilter

import (
	"fmt"
	"sync"
	"unsafe"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // sets what Share wraps
	"golang.org/x/sys/unix"
)

// most is how many programs are kept.
const most = 8

// A cache has the programs by their rules.
type cache struct {
	set func(path string, r *cgroups.Resources) error // libcontainer's

	mu       sync.Mutex // guards what follows
	programs map[string]int
}

// Share makes libcontainer, in this process, share programs.
func Share() {
	c := &cache{set: cgroups.DevicesSetV2, programs: map[string]int{}}
	cgroups.DevicesSetV2 = c.apply
}

// apply sets the device rules of the cgroup at path.
func (c *cache) apply(path string, r *cgroups.Resources) error {
	if r.SkipDevices {
		return c.set(path, r)
	}
	dir, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return c.set(path, r)
	}
	defer unix.Close(dir)
	if ids, err := attached(dir); err != nil || len(ids) > 0 {
		return c.set(path, r)
	}
	rules := key(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if program, ok := c.programs[rules]; ok && attach(dir, program) == nil {
		return nil
	}
	if err := c.set(path, r); err != nil {
		return err
	}
	c.keep(rules, dir)
	return nil
}

// keep keeps the program that is attached to a cgroup, with c.mu held.
func (c *cache) keep(rules string, dir int) {
	ids, err := attached(dir)
	if err != nil || len(ids) != 1 {
		return
	}
	program, err := open(ids[0])
	if err != nil {
		return
	}
	if old, ok := c.programs[rules]; ok {
		unix.Close(old)
	} else if len(c.programs) == most {
		for other, old := range c.programs {
			unix.Close(old)
			delete(c.programs, other)
			break
		}
	}
	c.programs[rules] = program
}

// key tells rules apart.
func key(r *cgroups.Resources) string {
	var k []byte
	for _, d := range r.Devices {
		k = fmt.Appendf(k, "%c %d:%d %q %t\n", d.Type, d.Major, d.Minor, d.Permissions, d.Allow)
	}
	return string(k)
}

// query is the part of the kernel's union bpf_attr for BPF_PROG_QUERY. Some kernels write
// its last field whatever size they are told.
type query struct {
	target, attachType, queryType, flags uint32
	ids                                  uint64
	count, _                             uint32
	_, _, _, _                           uint64
}

// attached returns the programs of a cgroup for devices.
func attached(dir int) ([]uint32, error) {
	ids := new([64]uint32) // a cgroup has no more
	q := &query{target: uint32(dir), attachType: unix.BPF_CGROUP_DEVICE, count: uint32(len(ids))}
	q.ids = uint64(uintptr(unsafe.Pointer(ids)))
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(q), unsafe.Sizeof(*q), unsafe.Pointer(ids))
	if err != nil {
		return nil, err
	}
	return ids[:min(int(q.count), len(ids))], nil
}

// open returns a descriptor of a program.
func open(id uint32) (int, error) {
	a := &struct{ id uint32 }{id}
	return bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(a), unsafe.Sizeof(*a), nil)
}

// attach attaches a program to a cgroup, as libcontainer does.
func attach(dir, program int) error {
	a := &struct{ target, program, attachType, flags uint32 }{
		uint32(dir), uint32(program), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI,
	}
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(a), unsafe.Sizeof(*a), nil)
	return err
}
