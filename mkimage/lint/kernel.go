package lint

import (
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/bundle"
	"keelson/internal/mounts"
	"keelson/mkimage/assemble"
	"keelson/mkimage/tree"
	"keelson/mkimage/view"
)

// kernel is what the kernel image tells of its kernel.
type kernel struct {
	release string // "" if it is not known
	version [2]int
	others  []string // releases whose modules are there instead
	// known reports that both the modules and what is built in are listed.
	known   bool
	modules map[string]bool // by name
	builtin map[string]bool
	paths   string // of both kinds
}

// readKernel reads a kernel image's version and its lists of modules.
func readKernel(root *tree.Root, file *assemble.File) *kernel {
	k := &kernel{modules: map[string]bool{}, builtin: map[string]bool{}}
	if file != nil {
		k.release = release(file)
		_, _ = fmt.Sscanf(k.release, "%d.%d", &k.version[0], &k.version[1])
	}
	for _, lib := range []string{"/lib/modules", "/usr/lib/modules"} {
		names := root.Names(lib)
		if k.release != "" && !slices.Contains(names, k.release) {
			k.others = append(k.others, names...)
			continue
		}
		for _, name := range names {
			if k.release == "" || name == k.release {
				k.readLists(view.Tree(root), path.Join(lib, name))
			}
		}
	}
	return k
}

func (k *kernel) readLists(in func(string) view.Found, dir string) {
	list := func(name string) (text string, ok bool) {
		f := in(path.Join(dir, name))
		if !f.Regular() {
			return "", false
		}
		b, err := read(f, 16<<20)
		return string(b), err == nil
	}
	dep, ok := list("modules.dep")
	builtin, too := list("modules.builtin")
	if !ok || !too || k.known {
		return
	}
	k.known, k.others = true, nil
	for line := range strings.Lines(dep) {
		file, _, _ := strings.Cut(line, ":")
		k.modules[moduleName(file)] = true
	}
	for line := range strings.Lines(builtin) {
		k.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	k.paths = dep + builtin
}

// moduleName is that of a module's file: kernel/fs/9p/9p.ko.xz is 9p.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// has reports whether the kernel has one of the modules, loaded or built in; it is true
// where that is not known.
func (k *kernel) has(names ...string) bool {
	return !k.known || slices.ContainsFunc(names, func(n string) bool { return k.modules[n] || k.builtin[n] })
}

// hasBuiltin reports the same of what takes no module.
func (k *kernel) hasBuiltin(names ...string) bool {
	return !k.known || slices.ContainsFunc(names, func(n string) bool { return k.builtin[n] })
}

// release reads the version out of the header of a bzImage: the kernel's
// Documentation/arch/x86/boot.rst.
func release(file *assemble.File) string {
	rc, err := file.Open()
	if err != nil {
		return ""
	}
	defer rc.Close()
	head := make([]byte, 64<<10)
	n, _ := io.ReadFull(rc, head) // a shorter file is none
	head = head[:n]
	if n < 0x210 || string(head[0x202:0x206]) != "HdrS" {
		return ""
	}
	at := int(binary.LittleEndian.Uint16(head[0x20e:])) + 0x200
	if at <= 0x200 || at >= n {
		return ""
	}
	text := string(head[at:])
	if i := strings.IndexAny(text, " \x00"); i > 0 {
		return text[:i]
	}
	return ""
}

// fileSystems are the file systems that a kernel may or may not have, and their modules.
// Any other type is built in if there is one of that name, and listed nowhere.
var fileSystems = map[string][]string{
	"ext2": {"ext2", "ext4"}, "ext3": {"ext3", "ext4"}, "ext4": {"ext4"}, "xfs": {"xfs"}, "btrfs": {"btrfs"}, "f2fs": {"f2fs"},
	"vfat": {"vfat"}, "msdos": {"msdos"}, "exfat": {"exfat"}, "ntfs3": {"ntfs3"}, "iso9660": {"isofs"}, "udf": {"udf"},
	"squashfs": {"squashfs"}, "erofs": {"erofs"}, "overlay": {"overlay"}, "nfs": {"nfs"}, "nfs4": {"nfsv4", "nfs"},
	"cifs": {"cifs"}, "smb3": {"cifs"}, "9p": {"9p"}, "virtiofs": {"virtiofs"}, "fuse": {"fuse"}, "fuseblk": {"fuse"},
	"ceph": {"ceph"}, "gfs2": {"gfs2"}, "ocfs2": {"ocfs2"}, "jfs": {"jfs"}, "nilfs2": {"nilfs2"}, "binfmt_misc": {"binfmt_misc"},
	"configfs": {"configfs"}, "efivarfs": {"efivarfs"}, "bcachefs": {"bcachefs"}, "zonefs": {"zonefs"}, "autofs": {"autofs4", "autofs"},
}

// links are the types of network interfaces that are modules.
var links = map[string]string{
	"veth": "veth", "dummy": "dummy", "bridge": "bridge", "ifb": "ifb", "macvlan": "macvlan", "ipvlan": "ipvlan", "vlan": "8021q",
	"vxlan": "vxlan", "wireguard": "wireguard", "vrf": "vrf", "bond": "bonding",
}

// nodes are the paths that are there, or of use, only with a module.
var nodes = map[string]string{
	"/dev/fuse": "fuse", "/dev/cuse": "cuse", "/dev/net/tun": "tun", "/dev/kvm": "kvm", "/dev/loop": "loop", "/dev/mapper": "dm_mod",
	"/dev/vhost-net": "vhost_net", "/dev/vhost-vsock": "vhost_vsock", "/dev/ppp": "ppp_generic", "/dev/uinput": "uinput",
	bundle.BinfmtMisc: "binfmt_misc",
}

// lack reports what a container needs and the kernel has not; somebody who may load
// modules can bring one.
func (o *one) lack(key, format string, a ...any) {
	strength := view.Nobody
	if o.any(func(b *bundle.Bundle) bool { return b.Section == bundle.Onboot && view.Has(b, "CAP_SYS_MODULE") }) {
		strength = view.Might
	}
	o.graded(strength, key, format+": take a kernel image that has it", a...)
}

// modules checks that the kernel has what the container mounts and uses.
func (o *one) modules() {
	type mount struct {
		key string
		specs.Mount
	}
	var all []mount
	for _, m := range o.Bundle.Spec.Mounts {
		all = append(all, mount{o.keyOf(m), m})
	}
	first := 0
	for _, m := range o.Bundle.Runtime.Mounts {
		if path.Clean(m.Destination) == o.Bundle.Rootfs() || strings.HasPrefix(m.Destination, o.Bundle.Dir+"/tmp") {
			first++ // they make the root: see overlay
			continue
		}
		all = append(all, mount{index("runtime.mounts", len(all)-len(o.Bundle.Spec.Mounts)), m})
	}
	for _, m := range all {
		if need := fileSystems[m.Type]; need != nil && !o.kernel.has(need...) && !mounts.Parse(m.Options).NoFail {
			o.lack(m.key, "the kernel has no %s file system, neither built in nor as a module", m.Type)
		}
		if m.Type == "bind" {
			o.node(m.key, m.Source)
		}
	}
	for i, d := range o.Bundle.Spec.Linux.Devices {
		o.node(index("devices", i), d.Path)
	}
	for i, n := range o.Bundle.Runtime.Interfaces {
		kind := n.Add
		if n.Peer != "" {
			kind = "veth"
		}
		if module := links[kind]; module != "" && !o.kernel.has(module) {
			o.lack(index("runtime.interfaces", i), "the kernel has no interfaces of type %s, neither built in nor as a module", kind)
		}
	}
}

// node warns of a device that the kernel has no driver for.
func (o *one) node(key, name string) {
	for prefix, module := range nodes {
		exact := name == prefix || strings.HasPrefix(name, prefix+"/") || prefix == "/dev/loop" && strings.HasPrefix(name, prefix)
		if exact && !o.kernel.has(module) {
			o.warn(key, "%s takes the driver %s, which the kernel image has neither built in nor as a module", name, module)
		}
	}
}

// overlay checks that roots that can be written can be made.
func (c *checker) overlay() {
	if c.kernel.has("overlay") {
		return
	}
	var names []string
	for _, k := range c.Containers {
		if !k.Bundle.Spec.Root.Readonly {
			names = append(names, string(k.Bundle.Section)+" "+k.Bundle.Name)
		}
	}
	if len(names) > 0 {
		c.add(false, c.Config.Problem("kernel.image", "has no overlay file system, which a root that can be written takes (%s): say readonly: true there, or take a kernel image that has it", strings.Join(names, ", ")))
	}
}

// disks are the drivers that a root on a disk takes, by how its device begins.
var disks = map[string][]string{
	"/dev/vd": {"virtio_blk"}, "/dev/sd": {"sd_mod"}, "/dev/nvme": {"nvme"}, "/dev/mmcblk": {"mmc_block"}, "/dev/xvd": {"xen_blkfront"}, "/dev/sr": {"sr_mod"},
}

// cmdline checks that the kernel has what its command line names.
func (c *checker) cmdline() {
	k := c.kernel
	if len(k.others) > 0 {
		c.add(true, c.Config.Problem("kernel.image", "the kernel is %s and /lib/modules has modules of %s: none of them can be loaded; take both from one kernel image", k.release, strings.Join(k.others, ", ")))
	}
	for _, word := range strings.Fields(c.Cmdline) {
		key, value, _ := strings.Cut(word, "=")
		switch {
		case key == "console" && strings.HasPrefix(value, "ttyS") && !k.has("8250"):
			c.add(true, c.Config.Problem("kernel.cmdline", "%s: the kernel has no driver for serial lines (8250): take a kernel image that has it", word))
		case key == "keelson.watchdog" && value != "off" && k.known && !watchdogs(k.paths):
			c.add(true, c.Config.Problem("kernel.cmdline", "%s: the kernel image has no driver of a watchdog: take one that has, such as softdog", word))
		}
	}
	const without = "a root on a disk takes %s built in, and the kernel has it %s: only an initramfs of yours can mount it"
	how := func(names []string) string {
		if k.has(names...) {
			return "as a module"
		}
		return "not at all"
	}
	for _, word := range strings.Fields(c.Disk) {
		key, value, _ := strings.Cut(word, "=")
		if need := fileSystems[value]; key == "rootfstype" && need != nil && !k.hasBuiltin(need...) {
			c.add(true, c.Config.Problem("kernel.cmdline", without, value, how(need)))
		}
		for device, need := range disks {
			if key == "root" && strings.HasPrefix(value, device) && !k.hasBuiltin(need...) {
				c.add(true, c.Config.Problem("kernel.cmdline", without, need[0], how(need)))
			}
		}
	}
}

// watchdogs reports whether a list of modules' files has a driver of a watchdog.
func watchdogs(paths string) bool {
	for line := range strings.Lines(paths) {
		file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		if strings.Contains(file, "/watchdog/") && moduleName(file) != "watchdog" {
			return true
		}
	}
	return false
}
