package config

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const base = `kernel: {image: k, cmdline: "console=tty0 quiet", tar: none}
init: [i1]
onboot: [{name: first, image: a}]
services:
  - {name: sshd, image: a, binds: ["data:/data"]}
files: [{path: etc/a, contents: x, uid: web}]
`

const added = `kernel:
  cmdline: >
    console=ttyS0
    panic=10
init: [i2]
onboot: [{name: first, image: b}]
services:
  - name: web
    image: ./web.tar
volumes: [{name: data}]
`

func TestMerge(t *testing.T) {
	c, err := ParseAll(Input{Name: "base.yml", Dir: "/base", Text: []byte(base)}, Input{Name: "web.yml", Dir: "/web", Text: []byte(added)})
	if err != nil {
		t.Fatal(err)
	}
	var services []string
	for _, s := range c.Services {
		services = append(services, s.Name+" of "+s.Image)
	}
	for _, check := range []struct{ what, got, want string }{
		{"init", fmt.Sprint(c.Init), "[i1 i2]"},
		{"onboot", c.Onboot[0].Image + c.Onboot[1].Image, "ab"},
		{"services", fmt.Sprint(services), "[sshd of a web of ./web.tar]"},
		{"the last command line", c.Kernel.Cmdline, "console=ttyS0 panic=10"},
		{"the kernel that only the first names", c.Kernel.Image + " " + *c.Kernel.Tar, "k none"},
		{"volumes", c.Volumes[0].Name, "data"},
		{"directory of what the first file has", c.Dir("files[0]"), "/base"},
		{"directory of what the second file has", c.Dir("services[1].image"), "/web"},
		{"a place in the second file", c.Problem("services[1].image", "x").Error(), "web.yml:9: services[0].image: x"},
		{"a place in the first file", c.Problem("services[0].image", "x").Error(), "base.yml:5: services[0].image: x"},
		{"the kernel's image", c.Problem("kernel.image", "x").Error(), "base.yml:1: kernel.image: x"},
		{"the kernel's command line", c.Problem("kernel.cmdline", "x").Error(), "web.yml:2: kernel.cmdline: x"},
	} {
		if check.got != check.want {
			t.Errorf("%s: got %q, want %q", check.what, check.got, check.want)
		}
	}
}

func TestMergeOfAnEmptyField(t *testing.T) {
	for _, test := range []struct{ first, second, want string }{
		{"{cmdline: a, binary: b}", `{cmdline: "", binary: ""}`, "a b none"}, // empty: the one before stays, as LinuxKit has it
		{"{cmdline: a, binary: b}", "{tar: x}", "a b x"},
		{"{cmdline: a, binary: b, tar: x}", `{tar: ""}`, "a b "},
	} {
		first, second := "kernel: "+test.first, "kernel: "+test.second
		c, err := ParseAll(Input{Text: []byte(first)}, Input{Text: []byte(second)})
		if err != nil {
			t.Fatal(err)
		}
		tar := "none"
		if c.Kernel.Tar != nil {
			tar = *c.Kernel.Tar
		}
		if got := c.Kernel.Cmdline + " " + c.Kernel.Binary + " " + tar; got != test.want {
			t.Errorf("%s and %s: got %q, want %q", first, second, got, test.want)
		}
	}
}

func TestMergeErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		second string
		want   []string
	}{
		{"a service of one name in both", "services: [{name: x, image: b}, {name: sshd, image: b}]\n", []string{
			`b.yml:1: services[1].name: "sshd" is already in a.yml:2; each service needs a name of its own`}},
		{"twice in the second", "services:\n  - {name: x, image: b}\n  - {name: x, image: b}\n", []string{
			`b.yml:3: services[1].name: "x" is already on line 2; each service needs a name of its own`}},
		{"a volume of one name in both", "volumes: [{name: data}]\n", []string{
			`b.yml:1: volumes[0].name: "data" is already in a.yml:3; each volume needs a name of its own`}},
		{"mistakes of both", "services:\n  - {name: x, image: b, binds: [\"gone:/x\"]}\n  - {name: y, image: b, bindz: []}\nfiles: x\n", []string{
			`b.yml:2: services[0].binds[0]: "gone" is neither an absolute path nor a volume of this file`,
			`b.yml:3: services[1].bindz: unknown key; did you mean "binds"?`,
			`b.yml:4: files: must be a list, is the string "x"`}},
		{"no YAML", "a: [", []string{"b.yml:2: is not YAML: did not find expected node content"}},
		{"empty", "", []string{"b.yml: is empty"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseAll(
				Input{Name: "a.yml", Text: []byte("services:\n  - {name: sshd, image: a}\nvolumes: [{name: data}]\n")},
				Input{Name: "b.yml", Text: []byte(test.second)})
			if err == nil || err.Error() != strings.Join(test.want, "\n") {
				t.Errorf("got\n%v\nwant\n%s", err, strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestLoadAll(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yml")
	if err := os.WriteFile(file, []byte("init: [a]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := LoadAll(strings.NewReader("init: [b]\n"), file, Stdin)
	if err != nil || !slices.Equal(c.Init, []string{"a", "b"}) || c.Dir("init[0]") != filepath.Dir(file) || c.Dir("init[1]") != "." {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := LoadAll(strings.NewReader("init: {}"), Stdin); err == nil || err.Error() != "standard input:1: init: must be a list, is a map" {
		t.Errorf("got %v", err)
	}
	if _, err := LoadAll(io.NopCloser(nil), file, "none.yml"); err == nil || !strings.Contains(err.Error(), "open none.yml") {
		t.Errorf("got %v", err)
	}
	if _, err := LoadAll(strings.NewReader("init: [b]\n"), Stdin, Stdin); err == nil || !strings.Contains(err.Error(), "name it once") {
		t.Errorf("got %v", err)
	}
}

func TestDeviceRuleNeedsNoType(t *testing.T) {
	c, err := Parse("t.yml", []byte(image("    devices: [{path: all}]\n")))
	if err != nil {
		t.Fatal(err)
	}
	if d := (*c.Services[0].Devices)[0]; d.Path != "all" || d.Type != "" {
		t.Errorf("got %+v", d)
	}
	_, err = Parse("t.yml", []byte(image("    devices: [{path: /dev/null, mode: \"0666\"}]\n")))
	if want := "t.yml:4: services[0].devices[0]: has no type:, which it needs"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
