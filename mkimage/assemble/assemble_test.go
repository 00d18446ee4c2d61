package assemble

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"gopkg.in/yaml.v3"

	"keelson/mkimage/config"
	"keelson/mkimage/images"
	"keelson/mkimage/imagetest"
	"keelson/mkimage/tree"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

const golden = "../../testdata/golden/mkimage"

// web is an image like many: an entry point, an environment, a label.
func web(t *testing.T) v1.Image {
	return imagetest.Image(t, v1.Config{
		Entrypoint: []string{"/bin/web"},
		Cmd:        []string{"--port", "80"},
		Env:        []string{"PATH=/bin"},
		WorkingDir: "/srv",
		StopSignal: "SIGQUIT",
		Labels: map[string]string{config.Label: `{
			"capabilities": ["CAP_NET_BIND_SERVICE", "CAP_CHOWN"], "binds": ["/etc/resolv.conf:/etc/resolv.conf"],
			"env": ["FROM=label"], "oomScoreAdj": 5, "annotations": {"keelson.restart": "never", "a": "label"},
			"runtime": {"mkdir": ["/var/from-label"], "cgroups": ["label"]}}`},
	}, []imagetest.Entry{imagetest.File("bin/web", "web")})
}

func busybox(t *testing.T) v1.Image {
	return imagetest.Image(t, v1.Config{Cmd: []string{"/bin/sh"}},
		[]imagetest.Entry{imagetest.File("bin/busybox", "busybox"), imagetest.HardLink("bin/sh", "bin/busybox"), imagetest.File("etc/hosts", "old"),
			imagetest.File("etc/hostname", "builder"), imagetest.File(".dockerenv", ""), imagetest.File("Dockerfile", ""), imagetest.File("dev/console", "")})
}

func kernel(t *testing.T) v1.Image {
	modules := string(imagetest.Tar(t, imagetest.File("lib/modules/6.1/m.ko", "module")))
	return imagetest.Image(t, v1.Config{}, []imagetest.Entry{
		imagetest.File("kernel", "kernel"), imagetest.File("kernel.tar", modules), imagetest.File("ucode.cpio", "ucode"),
		imagetest.File("other", "not wanted"),
	})
}

func initImage(t *testing.T) v1.Image {
	return imagetest.Image(t, v1.Config{}, []imagetest.Entry{
		imagetest.File("init", "init"), imagetest.Dir("usr/lib"), imagetest.Symlink("lib", "usr/lib"), imagetest.File("etc/resolv.conf", "nameserver"),
	})
}

// store returns a resolver whose store holds the images above.
func store(t *testing.T) *images.Resolver {
	t.Helper()
	s := images.OpenStore(t.TempDir())
	for name, img := range map[string]v1.Image{
		"you/web": web(t), "busybox": busybox(t), "same-busybox": busybox(t), "keelson/kernel": kernel(t), "keelson/init": initImage(t),
	} {
		ref, err := images.ParseRef(name, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Put(ref.Name, img, nil); err != nil {
			t.Fatal(err)
		}
	}
	return &images.Resolver{Store: s, Offline: true}
}

func build(t *testing.T, yaml string, dir string) (*Result, []string, error) {
	t.Helper()
	cfg, err := config.Parse("t.yml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	var warnings []string
	res, err := Build(context.Background(), Options{Config: cfg, Dir: dir, Resolver: store(t), Warn: func(format string, a ...any) {
		warnings = append(warnings, fmt.Sprintf(format, a...))
	}})
	return res, warnings, err
}

func mustBuild(t *testing.T, yaml string) *Result {
	t.Helper()
	res, _, err := build(t, yaml, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func read(t *testing.T, res *Result, name string) string {
	t.Helper()
	root, err := res.Root.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	rc, _, err := root.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// paths lists a tree as lines of mode, owner, path and what is there.
type paths []string

func (p *paths) WriteEntry(e tree.Entry, contents io.Reader) error {
	line := fmt.Sprintf("%04o %d:%d %s", e.Mode, e.UID, e.GID, e.Path)
	switch {
	case e.HardLink != "":
		line += " => " + e.HardLink
	case e.Type == tar.TypeDir:
		line += "/"
	case e.Type == tar.TypeSymlink:
		line += " -> " + e.Target
	case e.Type == tar.TypeReg:
		if _, err := io.Copy(io.Discard, contents); err != nil {
			return err
		}
	}
	*p = append(*p, line)
	return nil
}

func listing(t *testing.T, res *Result) []string {
	t.Helper()
	var p paths
	if err := res.Root.Write(&p); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(p, func(a, b string) int { return strings.Compare(strings.Fields(a)[2], strings.Fields(b)[2]) })
	return p
}

func compare(t *testing.T, file, got string) {
	t.Helper()
	file = filepath.Join(golden, file)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

// everything is a YAML of all sections; the golden files show what it becomes.
const everything = `
kernel: {image: keelson/kernel, cmdline: console=ttyS0, ucode: ucode.cpio}
init: [keelson/init]
onboot:
  - name: default
    image: busybox
  - name: readonly
    image: busybox
    readonly: true
onshutdown:
  - name: bye
    image: same-busybox
    command: [/bin/sh, -c, "echo bye"]
services:
  - name: label
    image: you/web
  - name: full
    image: you/web
    capabilities.add: [CAP_KILL]
    ambient: [CAP_NET_RAW]
    binds.add: ["data:/data", "/etc/hosts:/etc/hosts:ro"]
    mounts:
      - {type: bind, source: fixed, destination: /fixed, options: [bind, ro]}
      - {type: mqueue}
      - {source: sysfs, destination: /sys, options: [ro]}
    tmpfs: ["/tmp:size=1m,mode=1777"]
    devices:
      - {path: /dev/console, type: c, major: 5, minor: 1, mode: "0620"}
      - {path: all, type: b}
    command: [/bin/web, -v]
    env: [FROM=yaml]
    cwd: /
    net: new
    ipc: new
    uts: /run/ns/uts
    pid: host
    userns: new
    hostname: full
    readonly: true
    noNewPrivileges: true
    oomScoreAdj: -5
    maskedPaths: [/proc/kcore]
    readonlyPaths: [/proc/sys]
    rlimits: ["nofile,100,unlimited"]
    uid: full
    gid: label
    additionalGids: [bye, 7]
    uidMappings: [{hostID: 1000, containerID: 0, size: 65536}]
    gidMappings: [{hostID: 1000, containerID: 0, size: 65536}]
    rootfsPropagation: shared
    cgroupsPath: /custom
    resources: {memory: {limit: 1048576}, pids: {limit: 5}}
    sysctl: {net.core.somaxconn: "9"}
    annotations: {keelson.restart: always}
    runtime:
      mounts: [{type: tmpfs, source: tmpfs, destination: /mnt}]
      mkdir: [/var/x]
      interfaces: [{name: veth0, add: veth, peer: veth1}]
      bindNS: {net: /run/netns/x}
      namespace: other
files:
  - {path: etc/motd, contents: hello, mode: "0644"}
  - {path: /opt/app/conf, contents: "", mode: "0640", uid: full, gid: 7}
  - {path: opt/link, symlink: app/conf}
  - {path: var/empty, directory: true}
  - {path: etc/none, source: does-not-exist, optional: true}
volumes:
  - name: data
  - {name: fixed, image: busybox, readonly: true}
  - {name: oci, image: busybox, format: oci}
`

func TestGolden(t *testing.T) { compareGolden(t, mustBuild(t, everything)) }

func compareGolden(t *testing.T, res *Result) {
	t.Helper()
	// Digests depend on the compressor that made the images of this test.
	blob := regexp.MustCompile("sha256/[0-9a-f]{64}")
	compare(t, "tree.txt", blob.ReplaceAllString(strings.Join(listing(t, res), "\n")+"\n", "sha256/DIGEST"))
	for _, c := range []string{"onboot/000-default", "onboot/001-readonly", "onshutdown/000-bye", "services/label", "services/full"} {
		for _, file := range []string{"config.json", "runtime.json"} {
			compare(t, filepath.Join(c, file), read(t, res, filepath.Join("containers", c, file)))
		}
	}
}

// TestMergedGolden builds the same image of two files.
func TestMergedGolden(t *testing.T) {
	first, second, ok := strings.Cut(everything, "  - name: full\n")
	if !ok {
		t.Fatal("the YAML has no such service")
	}
	first = strings.Replace(first, "kernel: {image: keelson/kernel, cmdline: console=ttyS0, ucode: ucode.cpio}", "kernel: {image: keelson/kernel, cmdline: quiet}", 1)
	second = "kernel: {cmdline: \"console=ttyS0\\n\", ucode: ucode.cpio}\nservices:\n  - name: full\n" + second
	cfg, err := config.ParseAll(config.Input{Name: "a.yml", Text: []byte(first)}, config.Input{Name: "b.yml", Text: []byte(second)})
	if err != nil {
		t.Fatal(err)
	}
	res, err := Build(context.Background(), Options{Config: cfg, Dir: t.TempDir(), Resolver: store(t)})
	if err != nil {
		t.Fatal(err)
	}
	compareGolden(t, res)
	if res.Cmdline != "console=ttyS0" || res.UCode == nil || res.Kernel == nil {
		t.Errorf("the kernel is %+v", res)
	}
}

// TestGoldenDeviceRule is LinuxKit's for devices of all types.
func TestGoldenDeviceRule(t *testing.T) {
	res := mustBuild(t, "services: [{name: devices, image: busybox, devices: [{path: all}]}]")
	for _, file := range []string{"config.json", "runtime.json"} {
		compare(t, filepath.Join("services/devices", file), read(t, res, filepath.Join("containers/services/devices", file)))
	}
}

// TestEachFileHasItsDirectory looks for relative paths where the file lies that has them.
func TestEachFileHasItsDirectory(t *testing.T) {
	var inputs []config.Input
	for i, body := range []string{"one", "two"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "source"), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(dir, "app.tar"))
		if err != nil {
			t.Fatal(err)
		}
		img := imagetest.Image(t, v1.Config{Cmd: []string{"/x"}}, []imagetest.Entry{imagetest.File("x", body)})
		if err := images.WriteArchive(f, []images.Named{{Names: []string{"you/app:1"}, Image: img}}); err != nil {
			t.Fatal(err)
		}
		f.Close()
		text := fmt.Sprintf("onboot: [{name: a, image: ./app.tar}]\nfiles: [{path: f%d, source: source}]\nvolumes: [{name: v%d, image: ./app.tar}]\n", i, i)
		inputs = append(inputs, config.Input{Name: fmt.Sprint(i), Dir: dir, Text: []byte(text)})
	}
	cfg, err := config.ParseAll(inputs...)
	if err != nil {
		t.Fatal(err)
	}
	r := store(t)
	defer r.Close()
	res, err := Build(context.Background(), Options{Config: cfg, Resolver: r})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"f0": "one", "f1": "two", "containers/onboot/000-a/lower/x": "one", "containers/onboot/001-a/lower/x": "two",
		"containers/volumes/v0/lower/x": "one", "containers/volumes/v1/lower/x": "two"} {
		if got := read(t, res, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// TestDefaults checks the documented defaults one by one, golden files or not.
func TestDefaults(t *testing.T) {
	res := mustBuild(t, "onboot: [{name: a, image: busybox}]")
	var spec struct {
		Process map[string]json.RawMessage
		Root    map[string]any
		Mounts  []struct {
			Destination string
			Options     []string
		}
		Linux       map[string]json.RawMessage
		Hostname    *string
		Annotations *map[string]string
	}
	if err := json.Unmarshal([]byte(read(t, res, "containers/onboot/000-a/config.json")), &spec); err != nil {
		t.Fatal(err)
	}
	compact := func(raw json.RawMessage) string {
		var b bytes.Buffer
		if err := json.Compact(&b, raw); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for what, want := range map[string]string{"user": `{"uid":0,"gid":0}`, "args": `["/bin/sh"]`, "cwd": `"/"`, "capabilities": `{}`} {
		if got := compact(spec.Process[what]); got != want {
			t.Errorf("process.%s is %s, want %s", what, got, want)
		}
	}
	for _, not := range []string{"terminal", "rlimits", "oomScoreAdj", "noNewPrivileges", "env"} {
		if _, ok := spec.Process[not]; ok {
			t.Errorf("process.%s is there", not)
		}
	}
	if got, want := compact(spec.Linux["namespaces"]), `[{"type":"pid"},{"type":"mount"}]`; got != want {
		t.Errorf("namespaces are %s, want %s", got, want)
	}
	for _, not := range []string{"maskedPaths", "readonlyPaths", "devices", "seccomp", "sysctl", "cgroupsPath"} {
		if _, ok := spec.Linux[not]; ok {
			t.Errorf("linux.%s is there", not)
		}
	}
	if spec.Hostname != nil || spec.Annotations != nil || len(spec.Root) != 1 {
		t.Errorf("hostname %v, annotations %v, root %v", spec.Hostname, spec.Annotations, spec.Root)
	}
	var got []string
	for _, m := range spec.Mounts {
		got = append(got, m.Destination+" "+strings.Join(m.Options, ","))
	}
	want := []string{
		"/dev nosuid,strictatime,mode=755,size=65536k",
		"/dev/pts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620",
		"/proc nosuid,nodev,noexec,relatime",
		"/sys nosuid,noexec,nodev",
		"/sys/fs/cgroup nosuid,noexec,nodev,relatime,ro",
	}
	if !slices.Equal(got, want) {
		t.Errorf("mounts:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var runtime map[string]json.RawMessage
	if err := json.Unmarshal([]byte(read(t, res, "containers/onboot/000-a/runtime.json")), &runtime); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"cgroups": "[]", "mkdir": "[]", "interfaces": "[]", "namespace": `""`,
		"bindNS": `{"cgroup":"","ipc":"","mnt":"","net":"","pid":"","user":"","uts":""}`,
	} {
		if got := compact(runtime[key]); got != want {
			t.Errorf("runtime.json %s is %s, want %s", key, got, want)
		}
	}
}

func TestResultBesideTheRoot(t *testing.T) {
	res := mustBuild(t, everything)
	for what, f := range map[string]*File{"kernel": res.Kernel, "ucode": res.UCode} {
		rc, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		rc.Close()
		if err != nil || string(b) != what || f.Size != int64(len(what)) {
			t.Errorf("%s: got %q, size %d, %v", what, b, f.Size, err)
		}
	}
	if err := res.PutBoot(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"boot/kernel": "kernel", "boot/cmdline": "console=ttyS0", "boot/ucode.cpio": "ucode"} {
		if got := read(t, res, name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
}

func TestKernelNames(t *testing.T) {
	for _, test := range []struct {
		yaml, want string
	}{
		{"kernel: {image: keelson/kernel, binary: other, tar: none}", ""},
		{"kernel: {tar: none}\ninit: [keelson/init]", ""},
		{"kernel: {image: keelson/kernel, binary: bzImage}", "t.yml:1: kernel.image: image docker.io/keelson/kernel:latest: there is no bzImage; with kernel: binary: FILE it may have another name"},
		{"kernel: {image: keelson/kernel, tar: mods.tar}", "t.yml:1: kernel.image: image docker.io/keelson/kernel:latest: there is no mods.tar; say kernel: tar: none if the kernel needs no modules"},
		{"kernel: {image: keelson/kernel, ucode: intel.cpio}", "t.yml:1: kernel.ucode: image docker.io/keelson/kernel:latest: there is no intel.cpio"},
		{"kernel: {binary: x}", "t.yml:1: kernel: has no image:, the image that the kernel is in"},
	} {
		_, _, err := build(t, test.yaml, t.TempDir())
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.yaml, got, test.want)
		}
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ name, yaml, want string }{
		{"two missing images, all told", "init:\n  - none\nonboot:\n  - {name: a, image: gone}\n", "2 lines"},
		{"no command", "init:\n  - keelson/init\nonboot:\n  - name: a\n    image: keelson/init\n",
			"t.yml:4: onboot[0]: there is no command to run: the image has neither entry point nor command; give command: in the YAML"},
		{"source that is not there", "files:\n  - path: a\n    source: b\n", "t.yml:2: files[0]: a: source: open " + filepath.Join(dir, "b") + ": no such file or directory"},
		{"source that is a folder", "files:\n  - path: a\n    source: .\n", "t.yml:2: files[0]: a: source: " + dir + " is not a regular file"},
		{"source without a size", "files:\n  - path: a\n    source: /proc/version\n", "t.yml:2: files[0]: a: source: /proc/version has no size, as files of /proc have none; copy it to a file (cat /proc/version >FILE), and name that"},
		{"a file below a file", "init: [keelson/init]\nfiles:\n  - {path: init/a, contents: x}\n", "t.yml:3: files[0]: init/a: /init is a file already, so nothing can lie in it"},
		{"a folder for a file", "init: [keelson/init]\nfiles:\n  - {path: init, directory: true}\n", "t.yml:3: files[0]: init: there is a file of this name already, so it cannot be a folder"},
		{"a file for a full folder", "init: [keelson/init]\nfiles:\n  - {path: usr, contents: x}\n", "t.yml:3: files[0]: usr: there is a folder with files of this name already, so it cannot be a file"},
		{"archive that is not there", "init: [./none.tar]\n", "t.yml:1: init[0]: open " + filepath.Join(dir, "none.tar") + ": no such file or directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := build(t, test.yaml, dir)
			if err == nil {
				t.Fatal("no error")
			}
			if test.want == "2 lines" {
				lines := strings.Split(err.Error(), "\n")
				if len(lines) != 2 || !strings.HasPrefix(lines[0], "t.yml:2: init[0]: image docker.io/library/none:latest is not in the store") || !strings.HasPrefix(lines[1], "t.yml:4: onboot[0].image: image docker.io/library/gone:latest") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestBadLabelNamesImageAndField(t *testing.T) {
	r := store(t)
	img := imagetest.Image(t, v1.Config{Cmd: []string{"/x"}, Labels: map[string]string{config.Label: "net: new\nreadony: true\n"}}, []imagetest.Entry{imagetest.File("x", "")})
	if err := r.Store.Put("docker.io/library/bad:latest", img, nil); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse("t.yml", []byte("services: [{name: a, image: bad}]"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Build(context.Background(), Options{Config: cfg, Resolver: r})
	want := `t.yml:1: services[0].image: image docker.io/library/bad:latest: label org.mobyproject.config:2: readony: unknown key; did you mean "readonly"?`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestWarnings(t *testing.T) {
	_, warnings, err := build(t, "init: [busybox]", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "has an /init") {
		t.Errorf("got %q", warnings)
	}
}

func TestSourceAndMetadata(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.conf"), []byte("from the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	image := "init: [keelson/init]\nservices: [{name: s, image: busybox, uid: s}]\n" +
		"files:\n  - {path: a, source: app.conf, uid: 0}\n  - {path: b.json, metadata: json}\n  - {path: b.yml, metadata: yaml}\n"
	res, _, err := build(t, image, dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, res, "a"); got != "from the host" {
		t.Errorf("got %q", got)
	}
	for name, unmarshal := range map[string]func([]byte, any) error{"b.json": json.Unmarshal, "b.yml": yaml.Unmarshal} {
		text := []byte(read(t, res, name))
		var keys map[string]any
		if err := unmarshal(text, &keys); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		service := keys["services"].([]any)[0].(map[string]any)
		if init := keys["init"].([]any); init[0] != "docker.io/keelson/init:latest" || service["image"] != "docker.io/library/busybox:latest" || service["uid"] != "s" {
			t.Errorf("%s: got %s", name, text)
		}
		// The keys that LinuxKit writes are there whether the YAML has them or not.
		for _, key := range []string{"kernel", "init", "onboot", "onshutdown", "services", "files", "volumes"} {
			if _, ok := keys[key]; !ok {
				t.Errorf("%s has no %s:\n%s", name, key, text)
			}
		}
		first := keys["files"].([]any)[0].(map[string]any)
		if got := slices.Sorted(maps.Keys(first)); !slices.Equal(got, []string{"directory", "optional", "path", "source", "uid"}) || first["uid"] == nil {
			t.Errorf("%s: a file has the keys %q", name, got)
		}
	}
}
