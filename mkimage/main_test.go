package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"

	"keelson/internal/nstest"
	"keelson/mkimage/built"
	"keelson/mkimage/config"
	"keelson/mkimage/imagetest"
	"keelson/mkimage/vm"
)

func TestMain(m *testing.M) {
	if os.Getenv("KEELSON_TEST_MKIMAGE") != "" { // this process is to be mkimage
		main()
		os.Exit(0)
	}
	os.Exit(nstest.Main(m))
}

// mkimage runs the command line and returns what it printed.
func mkimage(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	err = cmd.ExecuteContext(context.Background())
	return out.String(), errs.String(), err
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, _, err := mkimage(t, args...)
	if err != nil {
		t.Fatalf("mkimage %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func write(t *testing.T, name, body string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
}

const yaml = `
kernel: {image: you/kernel, cmdline: console=ttyS0, tar: none}
init: [you/init]
onboot: [{name: a, image: you/app}]
services:
  - {name: b, image: you/app, readonly: true}
  - {name: c, image: you/app, command: [/app, -c]}
files: [{path: etc/x, contents: y}]
volumes: [{name: v, image: you/app}]
`

// project makes folders of files, imports them, and returns the place.
func project(t *testing.T) (dir, store string) {
	t.Helper()
	dir = t.TempDir()
	store = filepath.Join(dir, "store")
	write(t, filepath.Join(dir, "kernel", "kernel"), "bzImage")
	write(t, filepath.Join(dir, "init", "init"), "init")
	for i := range 50 {
		write(t, filepath.Join(dir, "app", fmt.Sprintf("d%d", i%7), fmt.Sprintf("f%d", i)), strings.Repeat("text ", i*100))
	}
	write(t, filepath.Join(dir, "app", "app"), string(imagetest.Program()))
	write(t, filepath.Join(dir, "t.yml"), yaml)
	for _, name := range []string{"kernel", "init", "app"} {
		must(t, "import", "--store", store, "you/"+name, filepath.Join(dir, name), "--cmd", "/app")
	}
	return dir, store
}

func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range list {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = fmt.Sprintf("%x", sha256.Sum256(b))
	}
	return got
}

func TestBuildTwiceGivesTheSameBytes(t *testing.T) {
	for _, flags := range [][]string{{"--format", "kernel+initrd"}, {"--format", "kernel+initrd", "--compress", "gzip"}, {"--format", "kernel+initrd", "--compress", "lz4"}, {"--format", "tar"},
		{"--format", "ext4"}, {"--format", "efi"}, {"--format", "raw-efi"}, {"--format", "iso-efi"},
		{"--format", "qcow2-efi,vhd,vmdk,gcp"}} {
		var first map[string]string
		for range 2 {
			// Each time in another folder, with images imported anew.
			dir, store := project(t)
			out := filepath.Join(dir, "out")
			must(t, append([]string{"build", "--efi-stub", stub(t, dir), "--offline", "--store", store, "-o", out, filepath.Join(dir, "t.yml")}, flags...)...)
			got := sums(t, out)
			if first == nil {
				first = got
				continue
			}
			if fmt.Sprint(got) != fmt.Sprint(first) {
				t.Errorf("%v: first %v, then %v", flags, first, got)
			}
		}
	}
}

func TestBuild(t *testing.T) {
	dir, store := project(t)
	out := filepath.Join(dir, "a", "b")
	printed := must(t, "build", "--offline", "--store", store, "-o", out, "--name", "box", filepath.Join(dir, "t.yml"))
	want := filepath.Join(out, "box-kernel") + "\n" + filepath.Join(out, "box-initrd.img") + "\n" + filepath.Join(out, "box-cmdline") + "\n"
	if printed != want {
		t.Errorf("printed %q, want %q", printed, want)
	}
	for name, want := range map[string]string{"box-kernel": "bzImage", "box-cmdline": "console=ttyS0 rootfstype=ramfs"} {
		if b, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v", name, b, err)
		}
	}
}

func TestBuildErrors(t *testing.T) {
	dir, store := project(t)
	bad := filepath.Join(dir, "bad.yml")
	write(t, bad, "init: [you/none]\nservice: []\n")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"build"}, "mkimage build takes an image YAML, got 0 arguments; see mkimage build --help"},
		{[]string{"build", "--formt", "tar"}, "unknown flag: --formt; see mkimage build --help"},
		{[]string{"build", "none.yml"}, "open none.yml: no such file or directory"},
		{[]string{"build", bad}, bad + `:2: service: unknown key; did you mean "services"?`},
		{[]string{"build", "--format", "iso", bad}, "--format iso: must be one of kernel+initrd, kernel+squashfs, kernel+ext4, efi, raw-efi, iso-efi, qcow2-efi, vhd, vmdk, gcp, tar"},
		{[]string{"build", "--compress", "lzma", bad}, `invalid argument "lzma" for "--compress" flag: must be one of auto, lz4, zstd, gzip, none; see mkimage build --help`},
		{[]string{"import", "--store", store, dir}, dir + " holds no image but files, so it needs a name: mkimage import NAME " + dir},
		{[]string{"import", "--store", store, "Bad", dir}, `"Bad" is no image name (invalid reference format: repository name (library/Bad) must be lowercase); a name looks like nginx, you/app:1.2 or registry.example.com/you/app:1.2`},
		{[]string{"import", "--store", store, "a", dir, "--env", "X"}, "--env X: must be NAME=VALUE"},
		{[]string{"import", "--store", store, "a", dir, "--label", "X"}, "--label X: must be KEY=VALUE"},
		{[]string{"import", "--store", store, "a", filepath.Join(dir, "none")}, "stat " + filepath.Join(dir, "none") + ": no such file or directory"},
		{[]string{"run", "-p", "1:2:3:4", bad}, "-p 1:2:3:4: wrong number of colons; must be HOST:GUEST such as 8080:80, or :80 for a free port, with an address in front or /udp behind if need be"},
		{[]string{"run", "-p", "80:http", bad}, `-p 80:http: "http" is no port; must be HOST:GUEST such as 8080:80, or :80 for a free port, with an address in front or /udp behind if need be`},
		{[]string{"run", "--memory", "lots", bad}, "--memory lots: must be a number of megabytes, or end in M or G, such as 512M"},
		{[]string{"run", "--cpus", "0", bad}, "--cpus 0: must be at least 1"},
		{[]string{"run", "--disk", "/none.img", bad}, "--disk: open /none.img: no such file or directory; make one with: truncate -s 1G /none.img"},
		{[]string{"run", filepath.Join(dir, "none")}, "there is no " + filepath.Join(dir, "none") + "-kernel; build it first (mkimage build), or give the .yml itself"},
	} {
		_, _, err := mkimage(t, test.args...)
		if err == nil || err.Error() != test.want {
			t.Errorf("mkimage %v:\ngot  %v\nwant %s", test.args, err, test.want)
		}
	}
}

// stub writes a program for EFI formats to begin with.
func stub(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "stub")
	write(t, name, string(imagetest.Stub()))
	return name
}

func TestFormats(t *testing.T) {
	dir, store := project(t)
	program := stub(t, dir)
	formats := map[string]string{
		"kernel+initrd": "t-kernel t-initrd.img t-cmdline",
		"ext4":          "t-kernel t-ext4.img t-cmdline",
		"kernel+ext4":   "t-kernel t-ext4.img t-cmdline",
		"efi":           "t.efi", "raw-efi": "t-efi.img", "iso-efi": "t-efi.iso", "iso-efi-initrd": "t-efi.iso",
		"qcow2-efi": "t-efi.qcow2", "qcow2": "t-efi.qcow2", "vhd": "t.vhd", "vmdk": "t.vmdk", "gcp": "t.img.tar.gz",
		"tar": "t.tar",
	}
	if _, err := exec.LookPath(squashfsTool); err == nil {
		formats["squashfs"] = "t-kernel t-squashfs.img t-cmdline"
	}
	for format, want := range formats {
		out := t.TempDir()
		printed := must(t, "build", "--offline", "--store", store, "--efi-stub", program, "--format", format, "-o", out, filepath.Join(dir, "t.yml"))
		if got := strings.ReplaceAll(strings.TrimSpace(printed), out+"/", ""); got != strings.ReplaceAll(want, " ", "\n") {
			t.Errorf("%s wrote %q, want %q", format, got, want)
		}
		for name := range sums(t, out) {
			if info, err := os.Stat(filepath.Join(out, name)); err != nil || info.Mode() != 0o644 {
				t.Errorf("%s is %v, %v", name, info.Mode(), err)
			}
		}
	}
}

// Of several formats each is written as if it were the only one, and named once.
func TestSeveralFormats(t *testing.T) {
	dir, store := project(t)
	build := func(out string, formats ...string) (string, error) {
		args := []string{"build", "--offline", "--store", store, "--efi-stub", stub(t, dir), "-o", out}
		for _, f := range formats {
			args = append(args, "--format", f)
		}
		printed, _, err := mkimage(t, append(args, filepath.Join(dir, "t.yml"))...)
		return printed, err
	}
	alone := map[string]string{}
	for _, format := range []string{"tar", "kernel+ext4", "raw-efi"} {
		out := t.TempDir()
		if _, err := build(out, format); err != nil {
			t.Fatal(err)
		}
		maps.Copy(alone, sums(t, out))
	}
	out := t.TempDir()
	printed, err := build(out, "tar", "ext4,raw-efi", "kernel+ext4")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(strings.ReplaceAll(printed, out+"/", "")); !slices.Equal(got, []string{"t-kernel", "t-ext4.img", "t-cmdline", "t-efi.img", "t.tar"}) {
		t.Errorf("wrote %q", got)
	}
	if got := sums(t, out); !maps.Equal(got, alone) {
		t.Errorf("wrote %v, want %v", got, alone)
	}
	for want, formats := range map[string][]string{
		"--format kernel+initrd, --format kernel+ext4: each writes a NAME-cmdline of its own; build one after the other, with another -o or --name": {"kernel+initrd", "ext4"},
		"--format tarball: must be one of kernel+initrd, kernel+squashfs, kernel+ext4, efi, raw-efi, iso-efi, qcow2-efi, vhd, vmdk, gcp, tar":       {"tar", "tarball"},
		"--format : must be one of kernel+initrd, kernel+squashfs, kernel+ext4, efi, raw-efi, iso-efi, qcow2-efi, vhd, vmdk, gcp, tar":              {""},
	} {
		if _, err := build(filepath.Join(dir, "out"), formats...); err == nil || err.Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", formats, err, want)
		}
	}
}

func TestAFolderThatTakesNoFiles(t *testing.T) {
	dir, store := project(t)
	yaml := filepath.Join(dir, "t.yml")
	if err := os.MkdirAll(filepath.Join(dir, "out", "t.tar"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ out, want string }{
		{yaml, "-o: " + yaml + " is a file, not a folder; name another folder"},
		{filepath.Join(yaml, "sub"), "-o: " + yaml + " is a file, not a folder; name another folder"},
		{"/proc", "-o: no file can be made in /proc: no such file or directory; name another folder"},
		{"/proc/new", "-o: the folder /proc/new cannot be made: no such file or directory; name another folder"},
		{filepath.Join(dir, "out"), "write " + filepath.Join(dir, "out", "t.tar") + ": a folder is there; remove it, or take another name"},
	} {
		_, _, err := mkimage(t, "build", "--offline", "--store", store, "--format", "tar", "-o", test.out, yaml)
		// Who is not root hears something else of /proc.
		if err == nil || strings.ReplaceAll(err.Error(), "permission denied", "no such file or directory") != test.want {
			t.Errorf("-o %s:\ngot  %v\nwant %s", test.out, err, test.want)
		}
	}
	file := filepath.Join(dir, "none", "x.tar")
	want := "write " + file + ": the folder " + filepath.Join(dir, "none") + " is not there; make it first"
	if _, _, err := mkimage(t, "import", "--output", file, "x", filepath.Join(dir, "app")); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestDiskCmdline(t *testing.T) {
	for in, want := range map[string]string{
		"":                     "root=/dev/vda rootfstype=ext4 rootwait ro init=/init",
		"quiet":                "quiet root=/dev/vda rootfstype=ext4 rootwait ro init=/init",
		"root=/dev/nvme0n1 ro": "root=/dev/nvme0n1 ro rootfstype=ext4 rootwait init=/init",
	} {
		if got := diskCmdline(in, "ext4"); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// What a format needs and does not have is said, and nothing is written.
func TestFormatErrors(t *testing.T) {
	dir, store := project(t)
	noKernel, notPE := filepath.Join(dir, "no-kernel.yml"), filepath.Join(dir, "app", "app")
	write(t, noKernel, "init: [you/init]\n")
	yaml := filepath.Join(dir, "t.yml")
	was := stubs
	stubs = nil
	t.Cleanup(func() { stubs = was })
	t.Setenv("PATH", "")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--format", "raw-efi", noKernel}, "--format raw-efi: the image has no kernel (kernel: image:)"},
		{[]string{"--format", "efi", yaml}, "--format efi needs the stub of systemd-boot, linuxx64.efi.stub, which is not on this machine; on Debian: apt-get install systemd-boot-efi; or name one with --efi-stub"},
		{[]string{"--format", "iso-efi", "--efi-stub", filepath.Join(dir, "none"), yaml}, "--efi-stub: open " + filepath.Join(dir, "none") + ": no such file or directory"},
		{[]string{"--format", "iso-efi", "--efi-stub", notPE, yaml}, "--format iso-efi: the stub is no EFI program"},
		{[]string{"--format", "squashfs", yaml}, "--format kernel+squashfs needs sqfstar, which is not on this machine; on Debian: apt-get install squashfs-tools"},
	} {
		out := filepath.Join(dir, "out")
		_, _, err := mkimage(t, append([]string{"build", "--offline", "--store", store, "-o", out}, test.args...)...)
		if err == nil || err.Error() != test.want {
			t.Errorf("mkimage build %v:\ngot  %v\nwant %s", test.args, err, test.want)
		}
		if left := sums(t, out); len(left) > 0 {
			t.Errorf("mkimage build %v left %v", test.args, left)
		}
	}
}

// A disk that is full in the middle is an error, and leaves no file that looks whole.
func TestFullDisk(t *testing.T) {
	nstest.Need(t)
	dir, store := project(t)
	program := stub(t, dir)
	for _, format := range formats {
		t.Run(format, func(t *testing.T) {
			if format == formatSquashfs {
				if _, err := exec.LookPath(squashfsTool); err != nil {
					t.Skip(err)
				}
			}
			out := nstest.Tmpfs(t, "size=8k")
			_, _, err := mkimage(t, "build", "--offline", "--store", store, "--efi-stub", program, "--compress", "none", "--format", format, "-o", out, filepath.Join(dir, "t.yml"))
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), "no space left on device") {
				t.Errorf("got %v", err)
			}
			for name := range sums(t, out) {
				if name != "t-kernel" { // a few bytes, and whole
					t.Errorf("left %s", name)
				}
			}
		})
	}
}

func TestRunOfFormats(t *testing.T) {
	dir := t.TempDir()
	prefix := filepath.Join(dir, "web")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--format", "tar"}, "--format tar: a tar is for other tools to make something of that boots"},
		{[]string{"--format", "efi"}, "--format efi: a program is no machine; raw-efi and iso-efi are the disk and the CD that have it"},
		{[]string{"--format", "gcp"}, "--format gcp: an archive is no machine; raw-efi is the disk in it"},
		{[]string{"--format", "disk"}, "--format disk: must be one of kernel+initrd, kernel+squashfs, kernel+ext4, efi, raw-efi, iso-efi, qcow2-efi, vhd, vmdk, gcp, tar"},
		{[]string{"--format", "raw-efi", "--format", "iso-efi"}, "--format raw-efi,iso-efi: a machine boots one; give it once"},
		{[]string{"--format", "raw-efi", "--append", "quiet"}, "--append: with --format raw-efi the command line is in the program"},
		{[]string{"--format", "raw-efi"}, "there is no " + prefix + "-efi.img; build it first (mkimage build), or give the .yml itself"},
		{[]string{"--format", "ext4"}, "there is no " + prefix + "-kernel; build it first (mkimage build), or give the .yml itself"},
	} {
		if _, _, err := mkimage(t, append([]string{"run", prefix}, test.args...)...); err == nil || err.Error() != test.want {
			t.Errorf("mkimage run %v:\ngot  %v\nwant %s", test.args, err, test.want)
		}
	}
	for _, name := range []string{"-kernel", "-ext4.img", "-efi.iso"} {
		write(t, prefix+name, "")
	}
	write(t, prefix+"-cmdline", "root=/dev/nvme0n1\n")
	var m vm.Machine
	if err := setFiles(&m, prefix, formatExt4, "quiet"); err != nil {
		t.Fatal(err)
	}
	if want := (vm.Machine{Kernel: prefix + "-kernel", Cmdline: "root=/dev/nvme0n1 quiet", RootDisk: prefix + "-ext4.img"}); fmt.Sprint(m) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", m, want)
	}
}

// What is forwarded is printed, a port that was picked even with -q, and is what QEMU gets.
func TestRunPrintsPorts(t *testing.T) {
	dir := t.TempDir()
	prefix := filepath.Join(dir, "web")
	for _, name := range []string{"-kernel", "-initrd.img", "-cmdline"} {
		write(t, prefix+name, "")
	}
	write(t, filepath.Join(dir, vm.Binary), "#!/bin/sh\necho \"$*\" >"+dir+"/args\n")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, quiet := range []bool{false, true} {
		args := []string{"run", prefix, "-p", ":80", "-p", "6379:6379/udp", fmt.Sprintf("--quiet=%v", quiet)}
		_, errs, err := mkimage(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		picked := regexp.MustCompile(`(?m)^127\.0\.0\.1:(\d+) \(tcp\) leads to port 80 of the machine$`).FindStringSubmatch(errs)
		if picked == nil || quiet == strings.Contains(errs, "\n127.0.0.1:6379 (udp) leads to port 6379 of the machine\n") || quiet == strings.Contains(errs, "Ctrl-a x") {
			t.Errorf("quiet %v: printed %q", quiet, errs)
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, "args"))
		if want := "hostfwd=tcp:127.0.0.1:" + picked[1] + "-:80,hostfwd=udp:127.0.0.1:6379-:6379"; err != nil || !strings.Contains(string(b), want) {
			t.Errorf("QEMU was started with %s, %v; want %s", b, err, want)
		}
	}
}

// The program of an EFI machine that is built to be run has what emulation needs.
func TestRunOfAnEFIProgram(t *testing.T) {
	dir, store := project(t)
	write(t, filepath.Join(dir, vm.Binary), "#!/bin/sh\nfor a; do case $a in *id=root*) cp ${a##*file=} "+dir+"/disk;; esac; done\n")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if _, err := vm.FindFirmware(); err != nil {
		t.Skip(err)
	}
	for kvm, want := range map[bool]string{false: "console=ttyS0 rootfstype=ramfs no_timer_check", true: "console=ttyS0 rootfstype=ramfs"} {
		args := []string{"run", "-q", "--offline", "--store", store, "--efi-stub", stub(t, dir), "--format", "raw-efi", filepath.Join(dir, "t.yml")}
		if kvm {
			if _, err := os.Stat("/dev/kvm"); err != nil {
				continue
			}
			args = append(args, "--kvm")
		}
		if _, _, err := mkimage(t, args...); err != nil {
			t.Errorf("kvm %v: %v", kvm, err)
			continue
		}
		image, err := built.Open(filepath.Join(dir, "disk"))
		if err != nil {
			t.Fatal(err)
		}
		if image.Cmdline != want {
			t.Errorf("kvm %v: got %q, want %q", kvm, image.Cmdline, want)
		}
	}
}

func TestImportAndLs(t *testing.T) {
	dir, store := project(t)
	out := must(t, "ls", "--store", store)
	for _, name := range []string{"docker.io/you/app:latest", "docker.io/you/init:latest", "docker.io/you/kernel:latest"} {
		if !strings.Contains(out, name) {
			t.Errorf("%s is not in %s", name, out)
		}
	}
	// Out as a tarball, back in under its own name and under another.
	file := filepath.Join(dir, "app.tar")
	must(t, "import", "--output", file, "you/other:2", filepath.Join(dir, "app"), "--config", `{"Entrypoint": ["/app"], "User": "7"}`, "--env", "A=b")
	must(t, "import", "--store", store, file)
	must(t, "import", "--store", store, "third", file)
	out = must(t, "ls", "--store", store)
	for _, name := range []string{"docker.io/you/other:2", "docker.io/library/third:latest"} {
		if !strings.Contains(out, name) {
			t.Errorf("%s is not in %s", name, out)
		}
	}
	if _, _, err := mkimage(t, "import", "--store", store, file, "--cmd", "x"); err == nil || !strings.Contains(err.Error(), "taken over as they are") {
		t.Errorf("configuring what is taken over: got %v", err)
	}
	out, errs, err := mkimage(t, "ls", "--store", filepath.Join(dir, "empty"))
	if err != nil || out != "" || !strings.Contains(errs, "has no images; mkimage import puts one there") {
		t.Errorf("empty store: got %q, %q, %v", out, errs, err)
	}
}

func TestSourceDateEpoch(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "root", "f"), "x")
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	file := filepath.Join(dir, "x.tar")
	must(t, "import", "--output", file, "x", filepath.Join(dir, "root"))
	must(t, "import", "--store", filepath.Join(dir, "store"), file)
	write(t, filepath.Join(dir, "t.yml"), "init: [x]\n")
	must(t, "build", "--offline", "--store", filepath.Join(dir, "store"), "--format", "tar", "-o", dir, filepath.Join(dir, "t.yml"))
	f, err := os.Open(filepath.Join(dir, "t.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	times := map[string]int64{}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		times[h.Name] = h.ModTime.Unix()
	}
	if times["f"] != 1000000000 || times["etc/hosts"] != 0 {
		t.Errorf("times are %v", times)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "today")
	if _, _, err := mkimage(t, "import", "--output", file, "x", filepath.Join(dir, "root")); err == nil || err.Error() != "SOURCE_DATE_EPOCH=today: must be seconds since 1970" {
		t.Errorf("got %v", err)
	}
}

func TestCmdline(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "rootfstype=ramfs",
		"console=ttyS0":               "console=ttyS0 rootfstype=ramfs",
		"rootfstype=tmpfs quiet":      "rootfstype=tmpfs quiet",
		"quiet rootfstype=tmpfs":      "quiet rootfstype=tmpfs",
		"notrootfstype=x console=tty": "notrootfstype=x console=tty rootfstype=ramfs",
	} {
		if got := cmdline(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestBaseName(t *testing.T) {
	for in, want := range map[string]string{"a/web.yml": "web", "web.yaml": "web", "web": "web", "a.b.yml": "a.b", ".yml": ".yml"} {
		if got := baseName(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// TestExamples reads the image YAMLs that people are meant to copy.
func TestExamples(t *testing.T) {
	list, err := filepath.Glob("../testdata/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Skip("there are no examples beside this package")
	}
	for _, file := range list {
		if _, err := config.Load(file); err != nil {
			t.Error(err)
		}
	}
}

func TestHelpSaysWhatAPersonNeeds(t *testing.T) {
	for _, test := range []struct{ command, says string }{
		{"build", "NAME-initrd.img"}, {"import", "docker import"}, {"run", "Ctrl-a x"}, {"ls", "store"},
	} {
		if out := must(t, test.command, "--help"); !strings.Contains(out, test.says) {
			t.Errorf("mkimage %s --help does not say %q:\n%s", test.command, test.says, out)
		}
	}
}

func TestReporter(t *testing.T) {
	var b bytes.Buffer
	r := newReporter(&b, false)
	r.line("a %d", 1)
	r.warn("b \x1b[2J\u202e\u009b")
	count, done := r.bar("pull", 2_500_000)
	count(5)
	done()
	if want := "a 1\nwarning: b \\x1b[2J\\u202e\\xc2\\x9b\npull (2.5 MB)\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	b.Reset()
	r.bar("nobody knows how much", 0)
	if want := "nobody knows how much\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	b.Reset()
	r = newReporter(&b, true)
	r.line("a")
	r.bar("x", 1)
	r.warn("still said")
	if got := b.String(); got != "warning: still said\n" {
		t.Errorf("got %q", got)
	}
}

// On a terminal a step is one line, drawn over until it is done; what is told
// meanwhile comes below.
func TestReporterOnATerminal(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(0, 0)
	r := newReporter(&b, false)
	r.term, r.now = true, func() time.Time { return now }
	const redraw = "\r\x1b[K"
	drawn := func(want string) {
		t.Helper()
		if got := b.String(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		b.Reset()
	}
	count, done := r.bar("pull", 1000)
	drawn(redraw + "pull                                        [            ]   0%   1.0 kB   0.0s")
	now = now.Add(time.Second)
	count(500)
	drawn(redraw + "pull                                        [######      ]  50%   1.0 kB   1.0s")
	count(1) // too soon to draw
	r.line("a grant")
	r.warn("a warning")
	drawn("")
	now = now.Add(1500 * time.Millisecond)
	count(499)
	b.Reset()
	done()
	drawn(redraw + "pull                                        [############] 100%   1.0 kB   2.5s\na grant\nwarning: a warning\n")
	now = now.Add(time.Second)
	count(1)
	r.line("after")
	drawn("after\n")

	// A long name is cut while it is drawn over, as a second row could not be.
	long := strings.Repeat("long ", 20)
	r.width = func() int { return 60 }
	count, done = r.bar(long, 0)
	if got := b.String(); len(strings.TrimPrefix(got, redraw)) >= 60 {
		t.Errorf("%d columns of 60: %q", len(got), got)
	}
	b.Reset()
	now = now.Add(time.Second)
	count(3 << 20)
	if got := b.String(); !strings.HasSuffix(got, " [   ###      ]        3.1 MB   1.0s") {
		t.Errorf("got %q", got)
	}
	b.Reset()
	done()
	drawn(redraw + long + " [############]        3.1 MB   1.0s\n")
	_, done = r.bar("nothing to read", 0)
	b.Reset()
	done()
	drawn(redraw + "nothing to read         [############]                 0.0s\n")
	r.width = func() int { return 3 }
	r.bar("narrow", 5)
}

// A build tells of its steps on the standard error output alone, and of nothing with -q.
func TestBuildTellsOfItsSteps(t *testing.T) {
	dir, store := project(t)
	args := []string{"build", "--offline", "--store", store, "-o", filepath.Join(dir, "out"), filepath.Join(dir, "t.yml")}
	out, errs, err := mkimage(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"kernel      docker.io/you/kernel:latest\n", "init        docker.io/you/init:latest\n", "onboot      a  docker.io/you/app:latest\n",
		"services    b  docker.io/you/app:latest\n", "volume      v\n", "hardening   linuxkit: a; auto: b, c\n", "write t-initrd.img (",
	} {
		if !strings.Contains(errs, want) || strings.Contains(out, want) {
			t.Errorf("%q is not told, or on the standard output:\n%s", want, errs)
		}
	}
	_, errs, err = mkimage(t, append(args, "--efi-stub", stub(t, dir), "--format", "raw-efi,qcow2")...)
	if err != nil || !regexp.MustCompile(`write EFI program \(.*\)\nwrite t-efi.img\nwrite t-efi.qcow2\nPART `).MatchString(errs) {
		t.Errorf("of several formats: %v\n%s", err, errs)
	}
	if out, errs, err := mkimage(t, append(args, "-q")...); err != nil || errs != "" || len(strings.Fields(out)) != 3 {
		t.Errorf("-q: got %q, %q, %v", out, errs, err)
	}
	if _, errs, err := mkimage(t, append(args, "-v")...); err != nil || !strings.Contains(errs, "hardening   auto: b (masked paths, ") {
		t.Errorf("-v: got %q, %v", errs, err)
	}
}

// On a real terminal each step has a bar and its time.
func TestBuildOnATerminal(t *testing.T) {
	dir, store := project(t)
	master, name, err := console.NewPty()
	if err != nil {
		t.Skip(err) // a machine without devpts
	}
	defer master.Close()
	terminal, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	printed := make(chan string)
	go func() {
		b, _ := io.ReadAll(master) // its error is how a terminal ends
		printed <- string(b)
	}()
	cmd := command()
	cmd.SetArgs([]string{"build", "--offline", "--store", store, "-o", filepath.Join(dir, "out"), filepath.Join(dir, "t.yml")})
	cmd.SetOut(io.Discard)
	cmd.SetErr(terminal)
	err = cmd.Execute()
	terminal.Close()
	out := <-printed
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"kernel      docker.io/you/kernel:latest", "init        docker.io/you/init:latest", "onboot      a  docker.io/you/app:latest", "volume      v", "write t-initrd.img"} {
		last := regexp.MustCompile(`\r\x1b\[K` + what + ` +\[#{12}\] +(100%)? +[0-9. kMB]* \d+\.\ds\r\n`)
		if !last.MatchString(out) {
			t.Errorf("no bar and time for %s in\n%q", what, out)
		}
	}
}
