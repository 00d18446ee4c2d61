package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWholeSchemaIsTaken(t *testing.T) {
	c, err := Load(filepath.Join("testdata", "whole.yml"))
	if err != nil {
		t.Fatal(err)
	}
	s := c.Services[0]
	for _, check := range []struct {
		what      string
		got, want any
	}{
		{"kernel.tar", *c.Kernel.Tar, "none"},
		{"init", len(c.Init), 2},
		{"onshutdown", c.Onshutdown[0].Name, "bye"},
		{"volumes[1].format", c.Volumes[1].Format, "oci"},
		{"files[0].uid", c.Files[0].UID.Name, "web"},
		{"files[1].gid", c.Files[1].GID.Number, uint32(7)},
		{"capabilities", (*s.Capabilities)[0], "CAP_NET_ADMIN"},
		{"readonly", *s.Readonly, true},
		{"resources.memory.limit", *s.Resources.Memory.Limit, int64(104857600)},
		{"resources.memory.kernelTCP", *s.Resources.Memory.KernelTCP, int64(1)}, //nolint:staticcheck // part of the schema
		{"resources.blockio", *s.Resources.BlockIO.Weight, uint16(10)},
		{"resources.hugepageLimits", s.Resources.HugepageLimits[0].Pagesize, "2097152"},
		{"uidMappings.containerID", (*s.UIDMappings)[0].HostID, uint32(1000)},
		{"mounts.uidmappings", (*s.Mounts)[0].UIDMappings[0].Size, uint32(1)},
		{"sysctl", (*s.Sysctl)["net.core.somaxconn"], "1024"},
		{"annotations", (*s.Annotations)["example.com/any"], "thing"},
		{"runtime.bindNS.net", *s.Runtime.BindNS.Net, "/run/netns/web"},
		{"runtime.interfaces", (*s.Runtime.Interfaces)[0].Peer, "veth1"},
		{"additionalGids", (*s.AdditionalGids)[1].Number, uint32(44)},
		{"merge key", (*c.Services[1].Binds)[0], "/dev:/dev"},
		{"key beside a merge key", c.Services[1].Name, "second"},
		{"said empty", c.Services[1].Capabilities != nil && len(*c.Services[1].Capabilities) == 0, true},
		{"not said", c.Services[1].Env == nil, true},
	} {
		if check.got != check.want {
			t.Errorf("%s: got %v, want %v", check.what, check.got, check.want)
		}
	}
}

// image wraps fields of a service, which begin on line 4.
func image(fields string) string {
	return "services:\n  - name: web\n    image: nginx\n" + fields
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		name, yaml string
		want       []string
	}{
		{"empty file", "", []string{"t.yml: is empty"}},
		{"only a comment", "# nothing\n", []string{"t.yml: is empty"}},
		{"not YAML", "services:\n  - name: [\n", []string{"t.yml:3: is not YAML: did not find expected node content"}},
		{"odd indentation", "init: [a]\nservices:\n  - name: a\n   image: b\n", []string{"t.yml:3: is not YAML: did not find expected '-' indicator"}},
		{"colon in a value", "kernel:\n  cmdline: a: b\n", []string{"t.yml:2: is not YAML: mapping values are not allowed in this context"}},
		{"tabs", "kernel:\n\timage: x\n", []string{"t.yml:2: is not YAML: found character that cannot start any token"}},
		{"list at the root", "- a\n", []string{"t.yml:1: must be a map of keys (kernel:, init:, services: ...), is a list"}},
		{"text after the end", "{}\nkernel: {}\n", []string{"t.yml:2: is not YAML: did not find expected <document start>"}},
		{"two documents", "init: [a]\n---\ninit: [b]\n", []string{"t.yml:2: has a second document after ---; there must be one"}},

		{"unknown key at the root", "sevices: []\n", []string{`t.yml:1: sevices: unknown key; did you mean "services"?`}},
		{"unknown key of a container", image("    bindz: []\n"), []string{`t.yml:4: services[0].bindz: unknown key; did you mean "binds"?`}},
		{"wrong case", image("    Readonly: true\n"), []string{`t.yml:4: services[0].Readonly: unknown key; did you mean "readonly"?`}},
		{"unknown key of the kernel", "kernel:\n  image: k\n  flags: x\n", []string{"t.yml:3: kernel.flags: unknown key; known here: binary, cmdline, image, tar, ucode"}},
		{"unknown key of a resource", image("    resources:\n      memory:\n        limits: 1\n"), []string{`t.yml:6: services[0].resources.memory.limits: unknown key; did you mean "limit"?`}},
		{"key twice", "init: [a]\ninit: [b]\n", []string{"t.yml:2: init: key comes twice, first on line 1; keep one"}},

		{"string for a list", image("    command: /bin/sh\n"), []string{`t.yml:4: services[0].command: must be a list, is the string "/bin/sh"`}},
		{"number for a string", image("    command: [sleep, 5]\n"), []string{`t.yml:4: services[0].command[1]: must be a string, is the number 5; quote it: "5"`}},
		{"yes for true", image("    readonly: yes\n"), []string{`t.yml:4: services[0].readonly: must be true or false, is the string "yes"`}},
		{"bool for a string", image("    annotations:\n      a: true\n"), []string{`t.yml:5: services[0].annotations.a: must be a string, is true; quote it: "true"`}},
		{"nothing for a list", "services:\n", []string{"t.yml:1: services: must be a list, is empty"}},
		{"map for a string", image("    cwd: {a: b}\n"), []string{"t.yml:4: services[0].cwd: must be a string, is a map"}},
		{"string for a number", image("    oomScoreAdj: low\n"), []string{`t.yml:4: services[0].oomScoreAdj: must be a number, is the string "low"`}},
		{"number for a list", image("    command: 5\n"), []string{"t.yml:4: services[0].command: must be a list, is the number 5"}},
		{"date for a string", image("    hostname: 2026-01-01\n"), []string{`t.yml:4: services[0].hostname: must be a string, is the date 2026-01-01; quote it: "2026-01-01"`}},
		{"hexadecimal", image("    oomScoreAdj: 0x10\n"), []string{"t.yml:4: services[0].oomScoreAdj: must be a decimal number of at most 64 bits, is 0x10"}},
		{"unquoted mode", "files:\n  - path: a\n    contents: b\n    mode: 0644\n", []string{`t.yml:4: files[0].mode: must be a string, is the number 0644; quote it: "0644"`}},

		{"no name", "services:\n  - image: nginx\n", []string{"t.yml:2: services[0]: has no name:, which it needs"}},
		{"no image", "onboot:\n  - name: a\n", []string{"t.yml:2: onboot[0]: has no image:, which it needs"}},
		{"two services of one name", image("  - name: web\n    image: redis\n"), []string{`t.yml:4: services[1].name: "web" is already on line 2; each service needs a name of its own`}},
		{"bad service name", "services:\n  - name: my/web\n    image: nginx\n", []string{`t.yml:2: services[0].name: "my/web" is no name for a service: letters and digits, single . _ - between them, at most 76 in all`}},
		{"service name that containerd refuses", "services:\n  - name: a--b\n    image: nginx\n", []string{`t.yml:2: services[0].name: "a--b" is no name for a service: letters and digits, single . _ - between them, at most 76 in all`}},
		{"bad name", "onboot:\n  - name: a b\n    image: nginx\n", []string{`t.yml:2: onboot[0].name: "a b" is no name for a container: letters, digits and . _ + - only, at most 200 in all`}},
		{"bad image", "init:\n  - Nginx:latest\n", []string{`t.yml:2: init[0]: "Nginx:latest" is no image name (invalid reference format: repository name (library/Nginx) must be lowercase); a name looks like nginx, you/app:1.2 or registry.example.com/you/app:1.2`}},
		{"empty image", "init: ['']\n", []string{"t.yml:1: init[0]: is empty; name an image, such as nginx or you/app:1.2"}},

		{"bad volume name", "volumes:\n  - name: Data.1\n", []string{`t.yml:2: volumes[0].name: "Data.1" is no name for a volume: small letters, digits, _ and - only`}},
		{"two volumes of one name", "volumes:\n  - name: a\n  - name: a\n", []string{`t.yml:3: volumes[1].name: "a" is already on line 2; each volume needs a name of its own`}},
		{"bad volume format", "volumes:\n  - name: a\n    format: ext4\n", []string{`t.yml:3: volumes[0].format: is "ext4", must be one of filesystem, oci`}},
		{"platform", "volumes:\n  - name: a\n    platforms: [linux/arm64]\n", []string{"t.yml:3: volumes[0].platforms: has no linux/amd64, the only platform that can be built"}},
		{"unknown volume", image("    binds: [\"data:/data\"]\n"), []string{`t.yml:4: services[0].binds[0]: "data" is neither an absolute path nor a volume of this file`}},
		{"writing to a readonly volume", image("    binds: [\"data:/data\"]\nvolumes:\n  - name: data\n    readonly: true\n"), []string{`t.yml:4: services[0].binds[0]: volume "data" is readonly, so this needs the option ro`}},
		{"mount of an unknown volume", image("    mounts:\n      - type: bind\n        source: data\n        destination: /d\n"), []string{`t.yml:5: services[0].mounts[0]: "data" is neither an absolute path nor a volume of this file`}},

		{"bind without destination", image("    binds: [/var]\n"), []string{`t.yml:4: services[0].binds[0]: is "/var", must be SOURCE:DESTINATION or SOURCE:DESTINATION:OPTIONS, such as /var/lib:/data:ro`}},
		{"bind to a relative path", image("    binds: [\"/var:var\"]\n"), []string{`t.yml:4: services[0].binds[0]: destination "var" must be an absolute path`}},
		{"bad tmpfs", image("    tmpfs: [\"/tmp:a:b\"]\n"), []string{`t.yml:4: services[0].tmpfs[0]: is "/tmp:a:b", must be DESTINATION or DESTINATION:OPTIONS, such as /tmp:size=10m`}},
		{"mount without type", image("    mounts:\n      - destination: /a\n"), []string{"t.yml:5: services[0].mounts[0]: has no type:, such as tmpfs or bind"}},
		{"mount without destination", image("    mounts:\n      - type: tmpfs\n"), []string{"t.yml:5: services[0].mounts[0]: has no destination:, the path to mount at"}},
		{"unknown capability", image("    capabilities: [net_admin]\n"), []string{`t.yml:4: services[0].capabilities[0]: unknown capability "net_admin"; did you mean "CAP_NET_ADMIN"?`}},
		{"all and more", image("    capabilities: [all, CAP_KILL]\n"), []string{`t.yml:4: services[0].capabilities[0]: unknown capability "all"; it must be the only one of the list`}},
		{"the group of all services", image("    cgroupsPath: /services/\n"), []string{`t.yml:4: services[0].cgroupsPath: /services holds the groups of all containers of that section, which would be killed with the container: name a group below it, or none`}},
		{"bad rlimit", image("    rlimits: [nofile]\n"), []string{`t.yml:4: services[0].rlimits[0]: is "nofile", must be NAME,SOFT,HARD such as nofile,1024,unlimited`}},
		{"unknown rlimit", image("    rlimits: [\"files,1,2\"]\n"), []string{`t.yml:4: services[0].rlimits[0]: unknown limit "files"; known: as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack`}},
		{"soft above hard", image("    rlimits: [\"nofile,unlimited,2\"]\n"), []string{"t.yml:4: services[0].rlimits[0]: soft limit unlimited is above the hard limit 2"}},
		{"unknown user", image("    uid: bob\n"), []string{`t.yml:4: services[0].uid: "bob" is no user: use a number, root, or the name of a container of this file`}},
		{"negative user", image("    gid: -1\n"), []string{"t.yml:4: services[0].gid: is -1, must be a decimal number from 0 to 4294967295"}},
		{"mapping of nobody", image("    uidMappings:\n      - {containerID: 0, hostID: 7}\n"), []string{"t.yml:5: services[0].uidMappings[0]: maps nobody: give a size: of 1 or more"}},
		{"mapping that overlaps", image("    gidMappings:\n      - {containerID: 0, hostID: 7, size: 10}\n      - {containerID: 9, hostID: 70, size: 1}\n"), []string{"t.yml:6: services[0].gidMappings[1]: its containerIDs 9 are partly those of entry 0, 0 to 9: let each number be in one entry"}},
		{"mapping of a number below 0", image("    uidMappings:\n      - containerID: 0\n        hostID: -1\n        size: 1\n"), []string{"t.yml:6: services[0].uidMappings[0].hostID: is -1, must be from 0 to 4294967295"}},
		{"mapping without end", image("    uidMappings: [{containerID: 1, hostID: 1, size: 4294967295}]\n"), []string{"t.yml:4: services[0].uidMappings[0]: goes beyond 4294967294, the last number there is"}},
		{"too many mappings", image("    uidMappings: [" + strings.Repeat("{containerID: 1, hostID: 1, size: 1}, ", 341) + "]\n"), []string{"t.yml:4: services[0].uidMappings: has 341 entries, the kernel takes 340 at most: join those that follow one another"}},
		{"device without mode", image("    devices:\n      - path: /dev/null\n        type: c\n"), []string{`t.yml:5: services[0].devices[0]: has no mode:, such as "0666"`}},
		{"device mode is no octal", image("    devices:\n      - {path: /dev/null, type: c, mode: \"rw\"}\n"), []string{`t.yml:5: services[0].devices[0].mode: is "rw", must be an octal mode such as "0644"`}},
		{"device type", image("    devices:\n      - {path: /dev/null, type: char, mode: \"0666\"}\n"), []string{`t.yml:5: services[0].devices[0].type: is "char", must be one of a, b, c, p, u`}},
		{"propagation", image("    rootfsPropagation: share\n"), []string{`t.yml:4: services[0].rootfsPropagation: is "share", must be one of private, rprivate, shared, rshared, slave, rslave, unbindable, runbindable`}},
		{"oomScoreAdj", image("    oomScoreAdj: -2000\n"), []string{"t.yml:4: services[0].oomScoreAdj: is -2000, must be from -1000 to 1000"}},
		{"command line of two lines", "kernel:\n  image: k\n  cmdline: |\n    a\n    b\n", []string{"t.yml:3: kernel.cmdline: must be one line; with > instead of | YAML folds several into one"}},
		{"interface without name", image("    runtime:\n      interfaces:\n        - add: veth\n"), []string{"t.yml:6: services[0].runtime.interfaces[0]: has no name:, which it needs"}},
		{"namespace", image("    runtime:\n      namespace: a/b\n"), []string{`t.yml:5: services[0].runtime.namespace: "a/b" is no containerd namespace: letters and digits, single . _ - between them`}},

		{"user namespace", image("    userns: banana\n"), []string{`t.yml:4: services[0].userns: is "banana", must be host, new, or the absolute path of a namespace`}},
		{"network of nobody", image("    net: bridge\n"), []string{`t.yml:4: services[0].net: is "bridge", must be host, new, or the absolute path of a namespace`}},
		{"none is for networks", image("    ipc: none\n"), []string{`t.yml:4: services[0].ipc: is "none", must be host, new, or the absolute path of a namespace`}},
		{"relative path", image("    uts: run/uts\n"), []string{`t.yml:4: services[0].uts: is "run/uts", must be host, new, or the absolute path of a namespace`}},
		{"processes of another", image("    pid: web\n"), []string{`t.yml:4: services[0].pid: is "web", must be host, new, or the absolute path of a namespace; a container's is joined by the path that its runtime.bindNS keeps it at`}},
		{"namespaces that there are", image("    net: none\n    ipc: root\n    uts: new\n    pid: /proc/1/ns/pid\n    userns: ''\n"), nil},

		{"file without path", "files:\n  - contents: a\n", []string{"t.yml:2: files[0]: has no path:, which it needs"}},
		{"file at the root", "files:\n  - path: /\n    directory: true\n", []string{`t.yml:2: files[0].path: is "/", must be the path of a file`}},
		{"file without contents", "files:\n  - path: a\n", []string{"t.yml:2: files[0]: has nothing to put there; give contents:, source:, metadata:, symlink: or directory: true"}},
		{"file with two contents", "files:\n  - path: a\n    contents: b\n    source: c\n", []string{"t.yml:2: files[0]: has contents and source; only one of them can be"}},
		{"folder with contents", "files:\n  - path: a\n    contents: b\n    directory: true\n", []string{"t.yml:2: files[0]: has contents and directory; only one of them can be"}},
		{"metadata", "files:\n  - path: a\n    metadata: xml\n", []string{`t.yml:3: files[0].metadata: is "xml", must be one of json, yaml`}},

		{"unknown annotation", image("    annotations:\n      keelson.restrat: never\n"), []string{`t.yml:5: services[0].annotations.keelson.restrat: "never": no such key; did you mean keelson.restart?`}},
		{"wrong annotation", image("    annotations:\n      keelson.restart: sometimes\n"), []string{`t.yml:5: services[0].annotations.keelson.restart: "sometimes": want always, on-failure or never`}},

		{"several at once", "kernel:\n  imag: k\nservices:\n  - name: web\n    image: nginx\n    readonly: 1\n    net: 5\n", []string{
			`t.yml:2: kernel.imag: unknown key; did you mean "image"?`,
			`t.yml:6: services[0].readonly: must be true or false, is the number 1`,
			`t.yml:7: services[0].net: must be a string, is the number 5; quote it: "5"`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse("t.yml", []byte(test.yaml))
			got := ""
			if err != nil {
				got = err.Error()
			}
			if want := strings.Join(test.want, "\n"); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestErrorsAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "unknown%d: 1\n", i)
	}
	_, err := Parse("t.yml", []byte(b.String()))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxProblems+1 || lines[maxProblems] != "... and 75 more" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

func TestAliasesCannotExplode(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 10; i++ {
		ref := fmt.Sprintf("*a%d", i-1)
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(ref+",", 9), ","))
	}
	_, err := Parse("t.yml", []byte(b.String()))
	if err == nil || strings.Count(err.Error(), "too large or too deep") != 1 {
		t.Errorf("got %v, want one message that the document is too large", err)
	}
	_, err = Parse("t.yml", []byte("a: &a\n  b: *a\n"))
	if err == nil {
		t.Error("an alias within itself was taken")
	}
}

func TestAllSectionsMayShareANameButServices(t *testing.T) {
	yaml := "onboot:\n  - {name: a, image: x}\n  - {name: a, image: x}\nservices:\n  - {name: a, image: x}\n"
	if _, err := Parse("t.yml", []byte(yaml)); err != nil {
		t.Errorf("one-shots may share a name: %v", err)
	}
}

func TestLabel(t *testing.T) {
	for _, test := range []struct{ name, label, want string }{
		{"YAML", "capabilities:\n  - CAP_KILL\nreadonly: true\n", ""},
		{"JSON", `{"capabilities": ["CAP_KILL"], "readonly": true}`, ""},
		{"name", `{"name": "x"}`, "image x: label:1: name: a label must not set this; the image YAML does"},
		{"unknown", `{"bind": []}`, `image x: label:1: bind: unknown key; did you mean "binds"?`},
		{"list", `[]`, "image x: label:1: must be a map of keys (kernel:, init:, services: ...), is a list"},
		{"policy of a service", `{"annotations": {"keelson.restart": "no"}}`, `image x: label:1: annotations.keelson.restart: "no": want always, on-failure or never`},
		{"user", `{"uid": "other"}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := ParseLabel("image x: label", "services", []string{"other"}, test.label)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if test.name == "YAML" || test.name == "JSON" {
				if c.Capabilities == nil || (*c.Capabilities)[0] != "CAP_KILL" || !*c.Readonly {
					t.Errorf("got %+v", c)
				}
			}
		})
	}
}

func TestProblemOfAField(t *testing.T) {
	c, err := Parse("t.yml", []byte("init:\n  - a\n  - b\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Problem("init[1]", "is %s", "bad").Error(), "t.yml:3: init[1]: is bad"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yml"))
	if !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
}

// FuzzParse looks for input that makes the reader panic or hang.
func FuzzParse(f *testing.F) {
	f.Add("services:\n  - {name: a, image: b, readonly: true, binds: [\"v:/d:ro\"]}\nvolumes: [{name: v}]\n")
	f.Add("files: [{path: a, contents: b, mode: \"0644\", uid: 5}]")
	f.Add("services: [{name: a, image: b, <<: {net: x}}]")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Parse("t.yml", []byte(s))
		if (c == nil) == (err == nil) {
			t.Errorf("config %v with error %v", c, err)
		}
	})
}
