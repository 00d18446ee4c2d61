package lint

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"keelson/mkimage/assemble"
	"keelson/mkimage/config"
	"keelson/mkimage/images"
	"keelson/mkimage/imagetest"
)

// exec is a file of a mode.
func exec(name, body string, mode int64) imagetest.Entry {
	e := imagetest.File(name, body)
	e.Mode = mode
	return e
}

// owned gives a file an owner and a group.
func owned(e imagetest.Entry, uid, gid int) imagetest.Entry {
	e.Uid, e.Gid = uid, gid
	return e
}

// elf is a 64-bit binary for a machine, whose interpreter is named at an offset; none without a name.
func elf(machine uint16, interpreter string, offset int) string {
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[18:], machine)
	le.PutUint64(b[32:], 64) // where the program headers are
	le.PutUint16(b[54:], 56)
	if interpreter == "" {
		return string(b)
	}
	le.PutUint16(b[56:], 1)
	le.PutUint32(b[64:], 3)
	le.PutUint64(b[64+8:], uint64(offset))
	le.PutUint64(b[64+32:], uint64(len(interpreter)+1))
	return string(b) + strings.Repeat("x", offset-len(b)) + interpreter + "\x00"
}

// bzImage is the beginning of a kernel of a version.
func bzImage(version string) string {
	b := make([]byte, 0x400)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x20e:], 0x100)
	copy(b[0x300:], version+" (someone@somewhere) #1")
	return string(b)
}

const native = 62

// app is the image of most containers: programs of every kind that can be started, or not.
func app(t *testing.T) v1.Image {
	return imagetest.Image(t, v1.Config{Env: []string{"PATH=/usr/bin:/bin"}, Cmd: []string{"/bin/app"}}, []imagetest.Entry{
		exec("bin/app", elf(native, "", 0), 0o755), imagetest.Symlink("bin/alias", "/bin/app"), imagetest.Symlink("bin/dangling", "nothing"),
		exec("bin/script", "#! /bin/app -x\n", 0o755), exec("bin/noscript", "#!/bin/bash\n", 0o755), exec("bin/nested", "#!/bin/noscript\n", 0o755), exec("bin/itself", "#!/bin/itself\n", 0o755),
		exec("bin/windows", "#!/bin/app\r\necho\r\n", 0o755), exec("bin/env", elf(native, "", 0), 0o755), exec("bin/envapp", "#!/bin/env app\n", 0o755), exec("bin/envbash", "#!/bin/env -S A=b bash -e\n", 0o755),
		exec("bin/plain", "echo hello\n", 0o755), exec("bin/data", elf(native, "", 0), 0o644), exec("bin/mine", elf(native, "", 0), 0o700),
		exec("bin/glibc", elf(native, "/lib64/ld-linux-x86-64.so.2", 300), 0o755), exec("bin/musl", elf(native, "/lib/ld-musl.so.1", 200_000), 0o755),
		exec("bin/far", elf(native, "/lib/nosuch.so", 200_000), 0o755), owned(exec("bin/theirs", elf(native, "", 0), 0o070), 1000, 2000),
		exec("bin/arm", elf(183, "", 0), 0o755), exec("lib/ld-musl.so.1", elf(native, "", 0), 0o755),
		exec("bin/cut", "\x7fELF\x02\x01", 0o755), {Header: tar.Header{Name: "bin/pipe", Typeflag: tar.TypeFifo, Mode: 0o755}},
		imagetest.Dir("data"), imagetest.File("etc/conf", "x"), imagetest.Symlink("var/run", "../run"), imagetest.Dir("run"),
	})
}

// initImage is the machine's root.
func initImage(t *testing.T, more ...imagetest.Entry) v1.Image {
	return imagetest.Image(t, v1.Config{}, append([]imagetest.Entry{
		exec("init", elf(native, "", 0), 0o755), exec("usr/bin/ctr", elf(native, "", 0), 0o755), imagetest.Dir("root/.ssh"), imagetest.Dir("var"), imagetest.Dir("mnt"),
		imagetest.Symlink("etc/os-release", "/usr/lib/os-release"), imagetest.File("usr/lib/os-release", "ID=x"),
	}, more...))
}

// kernelImage is a kernel and its modules: "+" in front of those that are built in.
func kernelImage(t *testing.T, version string, modules ...string) v1.Image {
	dir := "lib/modules/" + version + "/"
	var dep, builtin strings.Builder
	for _, m := range modules {
		if name, ok := strings.CutPrefix(m, "+"); ok {
			builtin.WriteString("kernel/x/" + name + ".ko\n")
		} else {
			dep.WriteString("kernel/x/" + m + ".ko.xz: \n")
		}
	}
	inner := imagetest.Tar(t, imagetest.File(dir+"modules.dep", dep.String()), imagetest.File(dir+"modules.builtin", builtin.String()))
	return imagetest.Image(t, v1.Config{}, []imagetest.Entry{imagetest.File("kernel", bzImage(version)), imagetest.File("kernel.tar", string(inner))})
}

// findings builds a YAML with images, beside app and init, and returns what is found, a line each.
func findings(t *testing.T, yaml, disk string, more map[string]v1.Image) string {
	t.Helper()
	store := images.OpenStore(t.TempDir())
	all := map[string]v1.Image{"app": app(t), "init": initImage(t)}
	for name, img := range more {
		all[name] = img
	}
	for name, img := range all {
		ref, err := images.ParseRef(name, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Put(ref.Name, img, nil); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Parse("t.yml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	res, err := assemble.Build(context.Background(), assemble.Options{Config: cfg, Resolver: &images.Resolver{Store: store, Offline: true}})
	if err != nil {
		t.Fatal(err)
	}
	found, err := Check(Image{Config: cfg, Result: res, Disk: disk})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range found {
		word := "error: "
		if f.Warning {
			word = "warning: "
		}
		lines = append(lines, word+f.Error())
	}
	return strings.Join(lines, "\n")
}

// service is a YAML of one service, its fields on line 3.
func service(fields string) string {
	return "init: [init]\nservices:\n  - {name: s, image: app, " + fields + "}\n"
}

type check struct {
	name, yaml string
	want       string // how what is found begins, "" for nothing
}

func run(t *testing.T, checks []check, more map[string]v1.Image) {
	t.Helper()
	for _, test := range checks {
		t.Run(test.name, func(t *testing.T) {
			got := findings(t, test.yaml, "", more)
			if test.want == "" && got != "" || !strings.HasPrefix(got, test.want) || strings.Count(got, "\n") != strings.Count(test.want, "\n") {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

const at = "error: t.yml:3: services[0]."

func TestProcess(t *testing.T) {
	run(t, []check{
		{"the image's own", service(`readonly: true`), ""},
		{"by PATH", service(`command: [app]`), ""},
		{"by a link", service(`command: [/bin/alias]`), ""},
		{"relative", service(`cwd: /bin, command: [./app]`), ""},
		{"missing", service(`command: [/bin/nosuch]`), at + "command: /bin/nosuch is not in the image: name a program that is there, or put it there"},
		{"dangling link", service(`command: [/bin/dangling]`), at + "command: /bin/dangling is not in the image"},
		{"below a file", service(`command: [/bin/app/x]`), at + "command: /bin/app/x is not in the image"},
		{"not in PATH", service(`command: [nosuch]`), at + "command: nosuch is in no directory of the container's PATH (/usr/bin:/bin): name a program that is there, or put it into the image"},
		{"no PATH", service(`env: [A=b], command: [app]`), at + "command: app has no slash, and there is no PATH in env to find it by: give its whole path, or env: [PATH=/usr/bin:/bin]"},
		{"directory", service(`command: [/bin]`), at + "command: /bin is a directory: name a program"},
		{"pipe", service(`command: [/bin/pipe]`), at + "command: /bin/pipe is a pipe or a device: name a program"},
		{"slash behind", service(`command: [/bin/app/]`), at + "command: /bin/app is a file, so no slash may follow it: leave the slash out"},
		{"empty word", service(`command: [""]`), at + "command: begins with an empty word: name a program"},
		{"binary cut short", service(`command: [cut]`), "warning: t.yml:3: services[0].command: cut is neither a binary nor a script"},
		{"mode", service(`command: [/bin/data]`), at + "command: /bin/data is not executable (mode 0644): change its mode in the image, or name another command"},
		{"mode, by PATH", service(`command: [data]`), at + "command: data is not executable (mode 0644)"},
		{"another's", service(`command: [/bin/mine], uid: 1000`), at + "command: /bin/mine is not executable (mode 0700)"},
		{"another's, with the capability", service(`command: [/bin/mine], uid: 1000, capabilities: [CAP_DAC_OVERRIDE]`), ""},
		{"the owner's", service(`command: [/bin/theirs], uid: 1000, gid: 2000`), at + "command: /bin/theirs is not executable (mode 0070)"},
		{"the group's", service(`command: [/bin/theirs], uid: 1001, gid: 2000`), ""},
		{"another group's", service(`command: [/bin/theirs], uid: 1001, gid: 1000`), at + "command: /bin/theirs is not executable (mode 0070)"},
		{"an additional group's", service(`command: [/bin/theirs], uid: 1001, gid: 1000, additionalGids: [2000]`), ""},
		{"script", service(`command: [script]`), ""},
		{"script without its interpreter", service(`command: [noscript]`), at + "command: noscript needs /bin/bash, which is not there: put it into the image, or name a command that does not need it"},
		{"script of a script", service(`command: [nested]`), at + "command: nested needs /bin/bash, which is not there"},
		{"script that is its own interpreter", service(`command: [itself]`), at + "command: itself is a script whose interpreter is a script, and so on, further than the kernel follows: name a program"},
		{"script with carriage returns", service(`command: [windows]`), at + "command: windows needs an interpreter whose name ends with a carriage return, as its lines end as on Windows"},
		{"env", service(`command: [envapp]`), ""},
		{"env without what it finds", service(`command: [envbash]`), at + "command: envbash needs bash, which is in no directory of PATH: put it into the image"},
		{"binary without its interpreter", service(`command: [glibc]`), at + "command: glibc needs /lib64/ld-linux-x86-64.so.2, which is not there"},
		{"interpreter far behind", service(`command: [musl]`), ""},
		{"missing interpreter far behind", service(`command: [far]`), at + "command: far needs /lib/nosuch.so, which is not there"},
		{"interpreter bound", service(`command: [glibc], binds: ["/usr/bin/ctr:/lib64/ld-linux-x86-64.so.2"]`), ""},
		{"another machine's", service(`command: [arm]`), "warning: t.yml:3: services[0].command: arm is a binary for ARM (aarch64): the kernel runs it only where a container sets up binfmt_misc for it"},
		{"neither binary nor script", service(`command: [plain]`), "warning: t.yml:3: services[0].command: plain is neither a binary nor a script"},
		{"bound", service(`command: [/x/ctr], binds: ["/usr/bin:/x"]`), ""},
		{"bound, and missing", service(`command: [/x/nosuch], binds: ["/usr/bin:/x"]`), at + "command: /x/nosuch is not in the image, nor on the machine, where it is bound from"},
		{"in a volume", service(`command: [/x/nosuch], binds: ["v:/x"]`) + "volumes: [{name: v}]\n", ""},
		{"in a tmpfs", service(`command: [/x/nosuch], tmpfs: [/x]`), ""},
		{"probes", service(`annotations: {keelson.ready: "exec:nosuch a", keelson.health: "exec:/bin/app b"}`), at + "annotations.keelson.ready: nosuch is in no directory"},
		{"health", service(`annotations: {keelson.health: "exec:/nosuch b"}`), at + "annotations.keelson.health: /nosuch is not in the image"},
		{"env", service(`env: [PATH=/bin, NAME]`), at + `env[1]: "NAME" has no =: must be NAME=VALUE`},
		{"env without a name", service(`env: ["=x"]`), at + `env[0]: "=x" has no name before the =: must be NAME=VALUE`},
		{"relative cwd", service(`cwd: data`), at + `cwd: "data" is not absolute: begin it with a slash, as in /data`},
		{"cwd is a file", service(`cwd: /etc/conf`), at + "cwd: /etc/conf is no directory: name one, or leave it out for /"},
		{"cwd is made", service(`cwd: /made`), ""},
		{"cwd is made in a read-only image", service(`cwd: /made, readonly: true`), ""},
		{"cwd of the machine's", service(`cwd: /x/nosuch, binds: ["/usr:/x"]`), at + "cwd: /x/nosuch is not there, and cannot be made in what is bound of the machine's read-only root"},
		{"cwd in proc", service(`cwd: /proc/self/fd/7`), ""},
	}, nil)
}

func TestBinds(t *testing.T) {
	onboot := func(fields, rest string) string {
		return "init: [init]\nonboot: [{name: o, image: app, " + fields + "}]\nservices:\n  - {name: s, image: app, " + rest + "}\n"
	}
	const nosuch = `binds: ["/usr/bin/nosuch:/usr/bin/nosuch"]`
	const made = `binds: ["/var/lib/x:/x"]`
	run(t, []check{
		{"of the root", service(`binds: ["/usr/bin/ctr:/usr/bin/ctr", "/root/.ssh:/root/.ssh", "/etc/os-release:/etc/os-release"]`), ""},
		{"of the machine", service(`binds: ["/etc/resolv.conf:/etc/resolv.conf", "/run:/run", "/var/run:/x", "/var/log/a:/log", "/dev/ttyS9:/dev/ttyS9", "/sys/a:/a", "/proc:/host", "/run/containerd/containerd.sock:/c.sock", "/var/lib/docker:/d"]`), ""},
		{"nobody's", service(nosuch), at + "binds[0]: nothing in the image makes /usr/bin/nosuch: put it there with files: or an image of init:, or leave it out"},
		{"nobody's, of mounts", service(`mounts: [{type: bind, source: /nosuch, destination: /x, options: [rbind]}]`), at + "mounts[0]: nothing in the image makes /nosuch"},
		{"nobody's, of the runtime", service(`runtime: {mounts: [{type: bind, source: /nosuch, destination: /run/x}]}`), at + "runtime.mounts[0]: nothing in the image makes /nosuch"},
		{"nofail", service(`runtime: {mounts: [{type: bind, source: /nosuch, destination: /run/x, options: [nofail]}]}`), ""},
		{"below a file", service(`binds: ["/usr/bin/ctr/x:/x"]`), at + "binds[0]: /usr/bin/ctr/x cannot be: /usr/bin/ctr is a file"},
		{"files:", service(nosuch) + "files: [{path: usr/bin/nosuch, contents: x}]\n", ""},
		{"a volume", service(`binds: ["v:/v", "/containers/volumes/v/merged/sub:/sub"]`) + "volumes: [{name: v}]\n", ""},
		{"empty at each boot", service(made), at + "binds[0]: nothing makes /var/lib/x: /var is empty at each boot; to make a directory add runtime: {mkdir: [/var/lib/x]}"},
		{"hidden at each boot", service(made) + "files: [{path: var/lib/x, directory: true}]\n", at + "binds[0]: /var/lib/x is not there in the machine: /var is empty at each boot, and hides what the image has there"},
		{"its own mkdir", service(made + `, runtime: {mkdir: [/var/lib/x]}`), ""},
		{"another's mkdir", onboot(`runtime: {mkdir: [/var/lib/x]}`, made), ""},
		{"another's mount", onboot(`runtime: {mounts: [{type: ext4, source: /dev/sda, destination: /var/lib/x}]}`, `binds: ["/var/lib/x/sub:/x"]`), ""},
		{"another's namespace", onboot(`runtime: {bindNS: {net: /run/netns/x}}`, `net: /run/netns/x`), ""},
		{"nobody's namespace", service(`net: /run/netns/x`), at + "net: nothing keeps a namespace at /run/netns/x: let the container that has it say runtime: {bindNS: {net: /run/netns/x}}"},
		{"another writes there", onboot(`binds: ["/var:/var"]`, made), ""},
		{"another only reads there", onboot(`binds: ["/var:/var:ro"]`, made), "error: t.yml:4: services[0].binds[0]: nothing makes /var/lib/x"},
		{"another lacks it too", service(made) + `  - {name: s2, image: app, binds: ["/var/lib/x:/x"]}`, at + "binds[0]: nothing makes /var/lib/x: /var is empty at each boot; to make a directory add runtime: {mkdir: [/var/lib/x]}\nerror: t.yml:4: services[1].binds[0]: nothing makes /var/lib/x"},
		{"who may do anything, before", onboot(`pid: host, capabilities: [all]`, nosuch), "warning: t.yml:4: services[0].binds[0]: the image has no /usr/bin/nosuch; only a container or a script that may do anything could make it"},
		{"who mounts there", onboot(`capabilities: [CAP_SYS_ADMIN], binds: ["/mnt:/mnt"]`, `binds: ["/mnt/disk:/x"]`), ""},
		{"who may not mount", onboot(`binds: ["/mnt:/mnt"]`, `binds: ["/mnt/disk:/x"]`), "error: t.yml:4: services[0].binds[0]: nothing in the image makes /mnt/disk"},
		{"who mounts where files are", onboot(`capabilities: [CAP_SYS_ADMIN], binds: ["/usr:/usr"]`, nosuch), "warning: t.yml:4: services[0].binds[0]: the image has no /usr/bin/nosuch"},
		{"a login", service(nosuch) + "  - {name: getty, image: app, pid: host, capabilities: [all], binds: [\"/:/host\"]}\n", at + "binds[0]: nothing in the image makes /usr/bin/nosuch"},
		{"a directory on a file", service(`binds: ["/usr/bin:/etc/conf"]`), at + "binds[0]: /usr/bin is a directory and /etc/conf in the container a file: bind a file there, or elsewhere"},
		{"a file on a directory", service(`binds: ["/usr/bin/ctr:/data"]`), at + "binds[0]: /usr/bin/ctr is a file and /data in the container a directory"},
		{"a tmpfs on a file", service(`tmpfs: [/etc/conf]`), at + "tmpfs[0]: /etc/conf is a file in the container: mount tmpfs elsewhere"},
		{"below a file of the image", service(`binds: ["/usr/bin:/etc/conf/x"]`), at + "binds[0]: cannot be mounted at /etc/conf/x: /etc/conf is a file in the image"},
		{"below what is bound", service(`binds: ["/usr:/x", "/root:/x/nosuch"]`), at + "binds[1]: cannot be mounted at /x/nosuch: that lies in what is bound of the machine's read-only root"},
		{"a device elsewhere", service(`readonly: true, devices: [{path: /x, type: c, major: 1, minor: 3, mode: "0666"}]`), at + "devices[0]: /x would be made in the image, which is readonly: name a path in /dev"},
		{"devices", service(`readonly: true, devices: [{path: /dev/x, type: c, major: 1, minor: 3, mode: "0666"}]`), ""},
		{"users mapped in a tmpfs", service(`mounts: [{type: tmpfs, source: t, destination: /x, uidmappings: [{hostID: 1, containerID: 0, size: 1}]}]`), at + "mounts[0]: users can be mapped in a bind only"},
		{"groups not mapped", service(`mounts: [{type: bind, source: /usr, destination: /x, options: [bind], uidmappings: [{hostID: 1, containerID: 0, size: 1}]}]`), at + "mounts[0]: users are mapped and groups are not"},
		{"no init", "services: [{name: s, image: app, " + nosuch + "}]\n", ""},
		{"a file that is hidden", "init: [init]\nfiles: [{path: var/lib/x, contents: y}, {path: var/lib/d, directory: true}]\n", "warning: t.yml:2: files[0].path: var/lib/x is hidden in the machine, where /var is empty at each boot: put it elsewhere, such as /etc"},
		{"the runtime's root", service(`runtime: {mkdir: [a/b, /run/c], mounts: [{type: tmpfs, source: tmpfs, destination: extra}]}`), ""},
		{"relative bindNS", service(`runtime: {bindNS: {net: netns/x}}`), at + `runtime.bindNS.net: "netns/x" is not absolute: name a file, such as /run/netns/s`},
		{"mount without a type", service(`runtime: {mounts: [{source: x, destination: /run/x}]}`), at + "runtime.mounts[0]: type is empty"},
	}, nil)
}

// TestLabels: what comes with an image is checked as what the YAML has, and reported at the
// container's line.
func TestLabels(t *testing.T) {
	labelled := imagetest.Image(t, v1.Config{
		Env: []string{"BAD"}, Cmd: []string{"/nosuch"}, Labels: map[string]string{config.Label: `{"binds": ["/usr/bin/nosuch:/x"], "hostname": "h"}`},
	}, nil)
	run(t, []check{{"all", "init: [init]\nservices:\n  - name: s\n    image: labelled\n", `error: t.yml:3: services[0]: env of its image: "BAD" has no =: must be NAME=VALUE
error: t.yml:3: services[0]: command of its image: /nosuch is not in the image: name a program that is there, or put it there
error: t.yml:3: services[0]: binds of its image: nothing in the image makes /usr/bin/nosuch: put it there with files: or an image of init:, or leave it out
error: t.yml:3: services[0]: hostname of its image: the container shares the machine's host name`}}, map[string]v1.Image{"labelled": labelled})
}

// TestLabelsCapabilities: those of a label are checked as the YAML's.
func TestLabelsCapabilities(t *testing.T) {
	labelled := imagetest.Image(t, v1.Config{Cmd: []string{"/app"}, Labels: map[string]string{config.Label: `{"capabilities": ["CAP_PERFMON"]}`}},
		[]imagetest.Entry{exec("app", elf(native, "", 0), 0o755)})
	run(t, []check{{"old kernel", "kernel: {image: kernel}\nservices: [{name: s, image: labelled}]\n",
		"warning: t.yml:2: services[0]: capabilities of its image: the kernel is 4.19.1, and CAP_PERFMON came with 5.8"}},
		map[string]v1.Image{"labelled": labelled, "kernel": kernelImage(t, "4.19.1", "overlay")})
}

func TestScriptsOfTheImage(t *testing.T) {
	for script, want := range map[string]string{
		"010-onboot": "error: t.yml:3: services[0].binds[0]: nothing makes /run/x", "100-mine": "",
	} {
		got := findings(t, service(`binds: ["/run/x:/x"]`), "", map[string]v1.Image{"init": initImage(t, exec("etc/init.d/"+script, "#!/bin/sh\n", 0o755))})
		if want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

func TestInit(t *testing.T) {
	for body, want := range map[string]string{
		elf(native, "/lib/ld.so", 200): "error: t.yml:1: init: /init needs /lib/ld.so, which is not there: the kernel cannot start it",
		elf(native, "", 0):             "",
	} {
		img := imagetest.Image(t, v1.Config{}, []imagetest.Entry{exec("init", body, 0o755)})
		if got := findings(t, "init: [init]\n", "", map[string]v1.Image{"init": img}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	img := imagetest.Image(t, v1.Config{}, []imagetest.Entry{exec("init", elf(native, "", 0), 0o644)})
	if got := findings(t, "init: [init]\n", "", map[string]v1.Image{"init": img}); got != "error: t.yml:1: init: /init is not executable (mode 0644): the kernel cannot start it" {
		t.Error(got)
	}
}

func TestLimits(t *testing.T) {
	cmdline := func(words, yaml string) string {
		return "kernel: {image: kernel, cmdline: " + words + "}\n" + yaml
	}
	run(t, []check{
		{"hostname", service(`hostname: h`), at + "hostname: the container shares the machine's host name, which the runtime refuses to change: add uts: new"},
		{"hostname of its own", service(`hostname: h, uts: new`), ""},
		{"sysctl of a shared network", service(`sysctl: {net.ipv4.ip_forward: "1"}`), at + "sysctl.net.ipv4.ip_forward: belongs to a namespace that the container shares with the machine: add net: new"},
		{"with slashes", service(`sysctl: {net/ipv4/ip_forward: "1"}`), at + "sysctl.net/ipv4/ip_forward: belongs to a namespace"},
		{"sysctl of its own network", service(`net: new, sysctl: {net.ipv4.ip_forward: "1"}`), ""},
		{"sysctl of a shared ipc", service(`net: new, sysctl: {kernel.shmmax: "1"}`), at + "sysctl.kernel.shmmax: belongs to a namespace that the container shares with the machine: add ipc: new"},
		{"sysctl of its own ipc", service(`ipc: new, sysctl: {kernel.shmmax: "1", fs.mqueue.msg_max: "1"}`), ""},
		{"sysctl of the machine", service(`sysctl: {vm.swappiness: "1"}`), at + "sysctl.vm.swappiness: is the whole machine's, so the runtime refuses to set it for a container: have an onboot container write it to /proc/sys, or put sysctl.vm.swappiness=1 into kernel: cmdline:"},
		{"nofile", service(`rlimits: ["nofile,1024,1048576"]`), ""},
		{"nofile unlimited", service(`rlimits: ["nofile,1024,unlimited"]`), at + "rlimits[0]: a process cannot have unlimited files open: the kernel takes 1048576 at most, unless sysctl.fs.nr_open= on its command line allows more; write nofile,1024,1048576"},
		{"nofile too many", service(`rlimits: ["core,0,0", "nofile,1024,2000000"]`), at + "rlimits[1]: 2000000 is above the kernel's 1048576: put sysctl.fs.nr_open=2000000 into kernel: cmdline:, or lower it"},
		{"nofile that an onboot container may allow", "onboot: [{name: o, image: app}]\nservices:\n" + `  - {name: s, image: app, rlimits: ["nofile,1024,2000000"]}`, "warning: t.yml:3: services[0].rlimits[0]: 2000000 is above the kernel's 1048576 unless a container raises fs.nr_open before"},
		{"nofile that the command line allows", cmdline("sysctl.fs.nr_open=3000000", service(`rlimits: ["nofile,1024,2000000"]`)), ""},
		{"others unlimited", service(`rlimits: ["nproc,unlimited,unlimited", "memlock,unlimited,unlimited"]`), ""},
		{"no user", service(`uid: 4294967295`), at + "uid: 4294967295 stands for no user to the kernel: the last one is 4294967294"},
		{"no group", service(`gid: 4294967295, additionalGids: [4294967295]`), at + "gid: 4294967295 stands for no group to the kernel: the last one is 4294967294\n" + at + "additionalGids[0]: 4294967295 stands"},
		{"new capability", cmdline("a", service(`capabilities: [CAP_KILL, CAP_BPF]`)), "warning: t.yml:4: services[0].capabilities[1]: the kernel is 4.19.1, and CAP_BPF came with 5.8: the container runs without it; name CAP_SYS_ADMIN, or take a newer kernel"},
		{"newer capability", "kernel: {image: newer}\n" + service(`capabilities: [CAP_BPF, CAP_CHECKPOINT_RESTORE]`), "warning: t.yml:4: services[0].capabilities[1]: the kernel is 5.8.0, and CAP_CHECKPOINT_RESTORE came with 5.9"},
		{"all capabilities", cmdline("a", service(`capabilities: [all]`)), ""},
		{"stray quote", service(`binds: [/run:/run"]`), at + `binds[0]: ends with a stray ", which YAML takes for a part of it: leave it out, or quote the whole of /run:/run`},
		{"stray quote in a command", service(`command: [app, x']`), `warning: t.yml:3: services[0].command[1]: ends with a stray '`},
		{"quotes that are meant", service(`command: [app, it's, 'x"', say "x", "don't'"]`), ""},
	}, map[string]v1.Image{"kernel": kernelImage(t, "4.19.1", "overlay"), "newer": kernelImage(t, "5.8.0", "overlay")})
}

func TestKernel(t *testing.T) {
	kernel := func(cmdline, rest string) string {
		return "kernel: {image: kernel, cmdline: \"" + cmdline + "\"}\ninit: [init]\n" + rest
	}
	ro := func(fields string) string {
		return "services: [{name: s, image: app, readonly: true, " + fields + "}]\n"
	}
	const s = "error: t.yml:3: services[0]."
	const w = "warning: t.yml:3: services[0]."
	run(t, []check{
		{"overlay", kernel("", "services: [{name: s, image: app}]\n"), "error: t.yml:1: kernel.image: has no overlay file system, which a root that can be written takes (services s): say readonly: true there, or take a kernel image that has it"},
		{"file system", kernel("", ro(`mounts: [{type: xfs, source: /dev/sda, destination: /x}]`)), s + "mounts[0]: the kernel has no xfs file system, neither built in nor as a module: take a kernel image that has it"},
		{"file system of the runtime", kernel("", ro(`runtime: {mounts: [{type: tmpfs, source: t, destination: /run/y}, {type: nfs, source: "a:/b", destination: /run/x}]}`)), s + "runtime.mounts[1]: the kernel has no nfs file system"},
		{"file systems that are there", kernel("", ro(`mounts: [{type: ext4, source: /dev/sda, destination: /x}, {type: ext3, source: /dev/sda, destination: /y}, {type: iso9660, source: /dev/sr0, destination: /z}, {type: debugfs, source: d, destination: /d}]`)), ""},
		{"who loads modules", kernel("", "onboot: [{name: o, image: app, readonly: true, capabilities: [CAP_SYS_MODULE]}]\n"+ro(`mounts: [{type: xfs, source: /dev/sda, destination: /x}]`)), "warning: t.yml:4: services[0].mounts[0]: the kernel has no xfs"},
		{"interface", kernel("", ro(`net: new, runtime: {interfaces: [{name: a, peer: b}, {name: c, add: dummy}]}`)), s + "runtime.interfaces[0]: the kernel has no interfaces of type veth"},
		{"nodes", kernel("", ro(`binds: ["/dev/net/tun:/dev/net/tun", "/dev/loop0:/dev/loop0"]`)), w + "binds[1]: /dev/loop0 takes the driver loop, which the kernel image has neither built in nor as a module\n" + w + "binds[0]: /dev/net/tun takes the driver tun"},
		{"device", kernel("", ro(`devices: [{path: /dev/fuse, type: c, major: 10, minor: 229, mode: "0666"}]`)), w + "devices[0]: /dev/fuse takes the driver fuse"},
		{"console", kernel("console=tty0 console=ttyS0", ""), "warning: t.yml:1: kernel.cmdline: console=ttyS0: the kernel has no driver for serial lines (8250)"},
		{"watchdog", kernel("keelson.watchdog=10s", ""), "warning: t.yml:1: kernel.cmdline: keelson.watchdog=10s: the kernel image has no driver of a watchdog"},
		{"watchdog off", kernel("keelson.watchdog=off", ""), ""},
	}, map[string]v1.Image{"kernel": kernelImage(t, "6.1.0-1-x", "+ext4", "isofs", "dummy")})

	if got := findings(t, kernel("root=/dev/vda", ""), "root=/dev/vda rootfstype=squashfs", map[string]v1.Image{"kernel": kernelImage(t, "6.1", "virtio-blk")}); got != `warning: t.yml:1: kernel.cmdline: a root on a disk takes virtio_blk built in, and the kernel has it as a module: only an initramfs of yours can mount it
warning: t.yml:1: kernel.cmdline: a root on a disk takes squashfs built in, and the kernel has it not at all: only an initramfs of yours can mount it` {
		t.Error(got)
	}
	if got := findings(t, kernel("", ""), "root=/dev/nvme0n1 rootfstype=ext4", map[string]v1.Image{"kernel": kernelImage(t, "6.1", "+nvme", "+ext4")}); got != "" {
		t.Error(got)
	}
}

// TestKernelWithoutLists: where nothing is known of modules, nothing is found.
func TestKernelWithoutLists(t *testing.T) {
	plain := imagetest.Image(t, v1.Config{}, []imagetest.Entry{imagetest.File("kernel", bzImage("6.1"))})
	got := findings(t, "kernel: {image: kernel, tar: none, cmdline: console=ttyS0 keelson.watchdog=1s}\nservices: [{name: s, image: app, mounts: [{type: xfs, source: /dev/sda, destination: /x}]}]\n",
		"root=/dev/vda rootfstype=ext4", map[string]v1.Image{"kernel": plain})
	if got != "" {
		t.Error(got)
	}
	modules := imagetest.Tar(t, imagetest.File("lib/modules/6.1/modules.dep", ""))
	half := imagetest.Image(t, v1.Config{}, []imagetest.Entry{imagetest.File("kernel", bzImage("6.1")), imagetest.File("kernel.tar", string(modules))})
	got = findings(t, "kernel: {image: kernel, cmdline: console=ttyS0}\nservices: [{name: s, image: app}]\n", "", map[string]v1.Image{"kernel": half})
	if got != "" {
		t.Errorf("without a list of what is built in: %s", got)
	}
	inner := imagetest.Tar(t, imagetest.File("lib/modules/5.10/modules.dep", ""), imagetest.File("lib/modules/5.10/modules.builtin", ""))
	other := imagetest.Image(t, v1.Config{}, []imagetest.Entry{imagetest.File("kernel", bzImage("6.1")), imagetest.File("kernel.tar", string(inner))})
	want := "warning: t.yml:1: kernel.image: the kernel is 6.1 and /lib/modules has modules of 5.10: none of them can be loaded; take both from one kernel image"
	if got := findings(t, "kernel: {image: kernel}\n", "", map[string]v1.Image{"kernel": other}); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// linuxkit is what YAMLs and labels of LinuxKit's style ask for, and EVE's and Kubernetes' nodes.
const linuxkit = `
kernel: {image: kernel, cmdline: "console=tty0 console=ttyS0 console=ttyAMA0 page_poison=1"}
init: [init]
onboot:
  - {name: sysctl, image: app, readonly: true, pid: host, capabilities: [CAP_SYS_ADMIN, CAP_NET_ADMIN], binds: ["/etc/sysctl.d:/etc/sysctl.d"], mounts: [{type: bind, source: /proc/sys, destination: /x, options: [rw, bind]}]}
  - {name: dhcpcd, image: app, readonly: true, binds: ["/run:/run", "/run/resolvconf:/etc"], capabilities: [CAP_NET_ADMIN], tmpfs: [/tmp]}
  - {name: format, image: app, binds: ["/dev:/dev"], capabilities: [CAP_SYS_ADMIN, CAP_MKNOD], devices: [{path: all, type: b}], net: new, ipc: new}
  - {name: mount, image: app, binds: ["/dev:/dev", "/var:/var:rshared,rbind"], capabilities: [CAP_SYS_ADMIN], rootfsPropagation: shared, net: new}
  - {name: metadata, image: app, readonly: true, tmpfs: [/tmp], capabilities: [CAP_SYS_ADMIN],
     binds: ["/dev:/dev", "/var:/var", "/run:/run", "/sys:/sys", "/etc/resolv.conf:/etc/resolv.conf", "/etc/ssl/certs:/etc/ssl/certs"]}
  - {name: storage-init, image: app, binds: ["/:/hostfs:rbind,rshared", "/dev:/dev"], capabilities: [all], pid: host}
  - {name: netns, image: app, net: new, runtime: {bindNS: {net: /run/netns/a}, interfaces: [{name: wg0, add: wireguard, createInRoot: true}]}}
onshutdown:
  - {name: bye, image: app, binds: ["/persist/log:/log"]}
services:
  - {name: getty, image: app, pid: host, capabilities: [all], env: [INSECURE=true, PATH=/bin], command: [app],
     binds: ["/etc/resolv.conf:/etc/resolv.conf", "/run:/run", "/tmp:/tmp", "/etc:/hostroot/etc", "/usr/bin/ctr:/usr/bin/ctr", "/usr/bin/runc:/usr/bin/runc", "/containers:/containers",
             "/var/log:/var/log", "/var/lib/containerd:/var/lib/containerd", "/dev:/dev", "/sys:/sys"],
     devices: [{path: /dev/console, type: c, major: 5, minor: 1, mode: "0666"}, {path: /dev/ttyAMA0, type: c, major: 204, minor: 64, mode: "0666"}]}
  - {name: sshd, image: app, readonly: true, pid: host, capabilities: [all], binds: ["/root/.ssh:/root/.ssh", "/run/config/ssh/authorized_keys:/etc/authorized_keys"]}
  - {name: docker, image: app, capabilities: [all], pid: host, binds: ["/etc/docker/daemon.json:/etc/docker/daemon.json", "/var/lib/docker:/var/lib/docker", "/lib/modules:/lib/modules", "/var/run:/var/run"],
     mounts: [{type: cgroup, options: [rw, nosuid, noexec, nodev, relatime]}], command: [/bin/app, -D]}
  - {name: kubelet, image: app, capabilities: [all], pid: host, cgroupsPath: systemreserved/kubelet, rootfsPropagation: shared,
     binds: ["/var/lib/kubeadm:/etc/kubernetes", "/var/lib/kubelet:/var/lib/kubelet:rshared,rbind", "/opt/cni/bin:/opt/cni/bin:rshared,rbind", "/etc/cni:/etc/cni"],
     runtime: {cgroups: [systemreserved, podruntime], mkdir: [/var/lib/kubeadm, /var/lib/kubelet, /var/lib/cni/bin, /opt/cni],
               mounts: [{type: bind, source: /var/lib/cni/bin, destination: /opt/cni/bin, options: [rw, bind]}, {type: tmpfs, source: tmpfs, destination: /etc/cni, options: [rw]}]}}
  - {name: eve, image: app, capabilities: [all], pid: host, net: host, uid: 101, gid: 101, additionalGids: [9, 13], cwd: /persist/x,
     binds: ["/dev:/dev", "/proc:/proc", "/run:/run", "/:/hostfs", "/lib/modules:/lib/modules", "/usr/bin/containerd:/usr/bin/containerd", "/etc/os-release:/etc/os-release", "/var/persist:/persist:rbind,rshared", "/config:/config"],
     mounts: [{type: cgroup2, source: cgroup2, destination: /sys/fs/cgroup, options: [rw, nosuid, noexec, nodev]}]}
  - {name: node_exporter, image: app, readonly: true, pid: host, binds: ["/proc:/host/proc", "/sys:/host/sys", "/:/rootfs"], capabilities: [all]}
  - {name: kmsg, image: app, binds: ["/dev/kmsg:/dev/kmsg"], devices: [{path: /dev/kmsg, type: c, major: 1, minor: 11, mode: "0600"}]}
  - {name: logwrite, image: app, binds: ["/var/run:/var/run", "/var/log:/var/log"], rlimits: ["nofile,100,200", "nproc,unlimited,unlimited"]}
  - {name: joined, image: app, net: /run/netns/a, ipc: new, uts: new, hostname: x, sysctl: {kernel.shmmax: "1", net.core.somaxconn: "9"}}
  - {name: binfmt, image: app, readonly: true, binds: ["/proc/sys/fs/binfmt_misc:/binfmt_misc"], capabilities: [CAP_SYS_ADMIN]}
files:
  - {path: var/lib/docker, directory: true}
  - {path: etc/docker/daemon.json, contents: '{"debug": true}'}
  - {path: root/.ssh/authorized_keys, contents: key, mode: "0600"}
  - {path: config, directory: true}
  - {path: persist, directory: true}
`

// TestNoFalseAlarms: nothing is found in what people have and what works.
func TestNoFalseAlarms(t *testing.T) {
	var dirs []imagetest.Entry
	for _, dir := range []string{"etc/sysctl.d", "etc/ssl/certs", "lib/modules", "opt"} {
		dirs = append(dirs, imagetest.Dir(dir))
	}
	for _, name := range []string{"runc", "containerd"} {
		dirs = append(dirs, imagetest.Symlink("usr/bin/"+name, "ctr"))
	}
	got := findings(t, linuxkit, "", map[string]v1.Image{
		"init": initImage(t, dirs...), "kernel": kernelImage(t, "6.6.71", "+overlay", "+8250", "+ext4", "+wireguard", "+binfmt_misc"),
	})
	if got != "" {
		t.Error(got)
	}
}

// TestCutShort: what claims to be a binary and is cut short is passed over.
func TestCutShort(t *testing.T) {
	whole := elf(native, "/lib/ld.so", 300)
	for n := range len(whole) {
		if p, err := parseProgram(strings.NewReader(whole[:n])); err != nil || p.interpreter != "" && n < len(whole)-1 {
			t.Fatalf("%d bytes: %+v, %v", n, p, err)
		}
	}
}
