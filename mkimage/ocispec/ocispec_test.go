package ocispec

import (
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/mkimage/config"
)

// service reads fields of a service.
func service(t *testing.T, fields string) config.Container {
	t.Helper()
	yaml := "services:\n  - name: s\n    image: i\n"
	for _, line := range strings.Split(fields, "\n") {
		yaml += "    " + line + "\n"
	}
	yaml += "  - {name: other, image: i}\nvolumes: [{name: vol}]\n"
	c, err := config.Parse("t.yml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return c.Services[0].Container
}

func label(t *testing.T, text string) config.Container {
	t.Helper()
	if text == "" {
		return config.Container{}
	}
	c, err := config.ParseLabel("label", "services", nil, text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var image = v1.Config{Entrypoint: []string{"/e"}, Cmd: []string{"c"}, Env: []string{"A=image"}, WorkingDir: "/image"}

func mountAt(s *specs.Spec, dest string) string {
	for _, m := range s.Mounts {
		if m.Destination == dest {
			return fmt.Sprintf("%s %s %s", m.Type, m.Source, strings.Join(m.Options, ","))
		}
	}
	return "none"
}

// TestMerge checks, field by field, who wins: the YAML over the label over the
// image, whole fields at a time, but for the two that add.
func TestMerge(t *testing.T) {
	for _, test := range []struct {
		name, yaml, label string
		get               func(*specs.Spec) any
		want              string
	}{
		{"command of the image", "", "", func(s *specs.Spec) any { return s.Process.Args }, "[/e c]"},
		{"command of the label", "", "command: [l]", func(s *specs.Spec) any { return s.Process.Args }, "[l]"},
		{"command of the YAML", "command: [y]", "command: [l]", func(s *specs.Spec) any { return s.Process.Args }, "[y]"},
		{"environment", "", "env: [A=label]", func(s *specs.Spec) any { return s.Process.Env }, "[A=label]"},
		{"empty environment", "env: []", "env: [A=label]", func(s *specs.Spec) any { return s.Process.Env }, "[]"},
		{"working directory", "", "", func(s *specs.Spec) any { return s.Process.Cwd }, "/image"},
		{"working directory of the label", "", "cwd: /l", func(s *specs.Spec) any { return s.Process.Cwd }, "/l"},
		{"readonly taken back", "readonly: false", "readonly: true", func(s *specs.Spec) any { return s.Root.Readonly }, "false"},

		{"annotations replace", "annotations: {b: y}", "annotations: {a: l}", func(s *specs.Spec) any { return s.Annotations }, "map[b:y]"},
		{"annotations of the label", "", "annotations: {a: l}", func(s *specs.Spec) any { return s.Annotations }, "map[a:l]"},

		{"capabilities replace", "capabilities: [CAP_KILL]", "capabilities: [CAP_CHOWN]", func(s *specs.Spec) any { return s.Process.Capabilities.Effective }, "[CAP_KILL]"},
		{"capabilities add", "capabilities.add: [CAP_KILL]", "capabilities: [CAP_CHOWN]", func(s *specs.Spec) any { return s.Process.Capabilities.Effective }, "[CAP_CHOWN CAP_KILL]"},
		{"capabilities add, none twice", "capabilities.add: [CAP_KILL]", "capabilities: [CAP_KILL]", func(s *specs.Spec) any { return s.Process.Capabilities.Effective }, "[CAP_KILL]"},
		{"capabilities replace what is added", "capabilities: [CAP_KILL]\ncapabilities.add: [CAP_SYSLOG]", "capabilities: [CAP_CHOWN]", func(s *specs.Spec) any { return s.Process.Capabilities.Effective }, "[CAP_KILL]"},
		{"none", "capabilities: [none]", "capabilities: [CAP_CHOWN]", func(s *specs.Spec) any { return s.Process.Capabilities.Bounding }, "[]"},
		{"all", "capabilities: [all]", "", func(s *specs.Spec) any { return len(s.Process.Capabilities.Permitted) }, "41"},
		{"ambient is not effective", "ambient: [CAP_KILL]", "", func(s *specs.Spec) any { return s.Process.Capabilities.Effective }, "[]"},
		{"ambient is bounding", "ambient: [CAP_KILL]", "", func(s *specs.Spec) any { return s.Process.Capabilities.Bounding }, "[CAP_KILL]"},

		{"binds replace", "binds: [\"/y:/y\"]", "binds: [\"/l:/l\"]", func(s *specs.Spec) any { return mountAt(s, "/l") }, "none"},
		{"binds add", "binds.add: [\"/y:/y\"]", "binds: [\"/l:/l\"]", func(s *specs.Spec) any { return mountAt(s, "/l") + "; " + mountAt(s, "/y") }, "bind /l rw,rbind,rshared; bind /y rw,rbind,rshared"},
		{"options of a bind", "binds: [\"/y:/y:ro,nosuid\"]", "", func(s *specs.Spec) any { return mountAt(s, "/y") }, "bind /y ro,nosuid,rbind"},
		{"bind of a volume", "binds: [\"vol:/y\"]", "", func(s *specs.Spec) any { return mountAt(s, "/y") }, "bind /containers/volumes/vol/merged rw,rbind,rshared"},
		{"label's bind of a volume", "", "binds: [\"vol:/y\"]", func(s *specs.Spec) any { return mountAt(s, "/y") }, "bind /containers/volumes/vol/merged rw,rbind,rshared"},
		{"mount over a default", "mounts: [{type: tmpfs, destination: /dev, options: [size=1m]}]", "", func(s *specs.Spec) any { return mountAt(s, "/dev") }, "tmpfs tmpfs size=1m"},
		{"mount by its source", "mounts: [{source: sysfs}]", "", func(s *specs.Spec) any { return mountAt(s, "/sys") }, "sysfs sysfs "},
		{"tmpfs", "tmpfs: [\"/t:size=1m,noexec\", /u]", "", func(s *specs.Spec) any { return mountAt(s, "/t") + "; " + mountAt(s, "/u") }, "tmpfs tmpfs size=1m,noexec; tmpfs tmpfs "},
		{"readonly dev", "readonly: true", "", func(s *specs.Spec) any { return mountAt(s, "/dev") }, "tmpfs tmpfs nosuid,strictatime,mode=755,size=65536k,ro"},

		{"namespaces", "net: new\nipc: /run/ipc\nuts: new\npid: host\nuserns: new", "", func(s *specs.Spec) any { return s.Linux.Namespaces }, "[{network } {ipc /run/ipc} {uts } {user } {mount }]"},
		{"net none", "net: none", "", func(s *specs.Spec) any { return s.Linux.Namespaces }, "[{network } {pid } {mount }]"},
		{"namespaces taken back", "net: host", "net: new\npid: host", func(s *specs.Spec) any { return s.Linux.Namespaces }, "[{mount }]"},
		{"pid of another", "pid: /proc/1/ns/pid", "", func(s *specs.Spec) any { return s.Linux.Namespaces }, "[{pid /proc/1/ns/pid} {mount }]"},

		{"users by name", "uid: other\ngid: root\nadditionalGids: [s, 7]", "", func(s *specs.Spec) any { return s.Process.User }, "{101 0 <nil> [100 7] }"},
		{"rlimit", "rlimits: [\"nofile, 1, unlimited\"]", "", func(s *specs.Spec) any { return s.Process.Rlimits }, "[{RLIMIT_NOFILE 18446744073709551615 1}]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Spec(Inputs{
				YAML: service(t, test.yaml), Label: label(t, test.label), Image: image,
				Users: map[string]uint32{"s": 100, "other": 101}, Volumes: map[string]string{"vol": "/containers/volumes/vol/merged"},
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(test.get(s)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestErrorsOfLabelAndYAMLTogether(t *testing.T) {
	for _, test := range []struct{ name, yaml, label, want string }{
		{"all and one more", "capabilities.add: [CAP_KILL]", "capabilities: [all]", `unknown capability "all"; all and none must be the only one of a list, label and YAML together`},
		{"volume of a label", "", "binds: [\"none:/x\"]", `binds: "none" is neither an absolute path nor a volume`},
		{"mounted volume of a label", "", "mounts: [{type: bind, source: none, destination: /x}]", `mounts: "none" is neither an absolute path nor a volume`},
	} {
		_, err := Spec(Inputs{YAML: service(t, test.yaml), Label: label(t, test.label), Image: image})
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
		}
	}
}

func TestStopSignal(t *testing.T) {
	img := image
	img.StopSignal = "SIGQUIT"
	for fields, want := range map[string]string{
		"":                    "SIGQUIT",
		"annotations: {a: b}": "SIGQUIT",
		"annotations: {org.opencontainers.image.stopSignal: SIGINT}": "SIGINT",
	} {
		yaml := service(t, fields)
		s, err := Spec(Inputs{YAML: yaml, Image: img})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Annotations["org.opencontainers.image.stopSignal"]; got != want {
			t.Errorf("%q: got %q, want %q", fields, got, want)
		}
		if yaml.Annotations != nil && len(*yaml.Annotations) != 1 {
			t.Error("the YAML's own annotations were changed")
		}
	}
}

func TestUsersAreNumberedOverAllSections(t *testing.T) {
	c, err := config.Parse("t.yml", []byte("services: [{name: c, image: i}]\nonshutdown: [{name: b, image: i}]\nonboot: [{name: a, image: i}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(Users(c)); got != "map[a:100 b:101 c:102]" {
		t.Errorf("got %s", got)
	}
}

func TestRuntimeFieldsOfTheYAMLReplaceTheLabels(t *testing.T) {
	y := service(t, "runtime:\n  mkdir: [/y]\n  bindNS: {net: /y}")
	l := label(t, "runtime: {mkdir: [/l], cgroups: [l], bindNS: {net: /l, uts: /l}, namespace: l}")
	r := Runtime(y.Runtime, l.Runtime, []specs.Mount{{Destination: "/first"}})
	got := fmt.Sprintln(*r.Mkdir, *r.Cgroups, *r.BindNS.Net, *r.BindNS.Uts, *r.Namespace, len(*r.Interfaces), (*r.Mounts)[0].Destination)
	if want := "[/y] [l] /y /l l 0 /first\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
