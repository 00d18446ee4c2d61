package label

import (
	"strings"
	"testing"

	"keelson/mkimage/config"
)

func yamlOf(t *testing.T, fields string) config.Container {
	t.Helper()
	text := "services:\n  - name: s\n    image: i\n"
	for _, line := range strings.Split(fields, "\n") {
		text += "    " + line + "\n"
	}
	c, err := config.Parse("t.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c.Services[0].Container
}

func labelOf(t *testing.T, text string) config.Container {
	t.Helper()
	c, err := config.ParseLabel("label", "services", nil, text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const everything = `
capabilities: [CAP_SYS_ADMIN, CAP_CHOWN]
capabilities.add: [CAP_KILL]
ambient: [CAP_NET_RAW]
additionalGids: [7]
noNewPrivileges: false
maskedPaths: []
readonlyPaths: [/proc/irq]
net: /run/netns/x
pid: host
ipc: host
uts: new
hostname: h
binds: ["/:/host", "/etc/hosts:/etc/hosts:ro"]
binds.add: ["/run:/run"]
mounts: [{type: tmpfs, source: tmpfs, destination: /t, options: [nosuid]}]
tmpfs: ["/tmp"]
devices: [{path: /dev/kvm, type: c, major: 10, minor: 232, mode: "0666"}, {path: all, type: b}]
rootfsPropagation: shared
cgroupsPath: /other
sysctl: {kernel.x: "1"}
rlimits: ["nofile,100,unlimited"]
oomScoreAdj: -5
resources: {pids: {limit: 5}}
annotations: {keelson.harden: linuxkit, org.example: nothing}
readonly: true
command: [/x]
env: [A=b]
cwd: /x
uid: 7
runtime:
  cgroups: [c]
  mounts: [{type: bind, source: /a, destination: /b}]
  mkdir: [/m]
  interfaces: [{name: eth0}]
  bindNS: {net: /run/netns/s}
  namespace: other
`

func TestGrants(t *testing.T) {
	got := strings.Join(Grants(config.Container{}, labelOf(t, everything)), "\n")
	want := `capabilities CAP_CHOWN CAP_KILL CAP_SYS_ADMIN
ambient CAP_NET_RAW
additionalGids [7]
noNewPrivileges false
maskedPaths none
readonlyPaths only /proc/irq
net /run/netns/x
pid host
hostname h
/ at /host read-write
/etc/hosts read-only
/run read-write
mount tmpfs tmpfs at /t nosuid
tmpfs /tmp
device /dev/kvm (c 10:232)
devices all (b)
cgroupsPath /other
rootfsPropagation shared
sysctl kernel.x=1
rlimits nofile,100,unlimited
oomScoreAdj -5
resources {"pids":{"limit":5}}
runtime cgroups c
runtime mount bind /a at /b
runtime mkdir /m
runtime interface eth0
runtime bindNS net /run/netns/s
runtime namespace other
annotation keelson.harden: linuxkit`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// What the YAML states is no grant of the label.
	if got := Grants(labelOf(t, everything), labelOf(t, everything)); len(got) > 0 {
		t.Errorf("stated by the YAML, but %q", got)
	}
	// What restricts is none either, nor what every container may.
	if got := Grants(config.Container{}, labelOf(t, "{net: new, pid: new, ipc: new, userns: host, uts: host, readonly: true, noNewPrivileges: true, capabilities: [none], binds: [], oomScoreAdj: 9}")); len(got) > 0 {
		t.Errorf("restrictions, but %q", got)
	}
}

func TestTheYAMLReplacesAndAdds(t *testing.T) {
	label := labelOf(t, `{capabilities: [all], binds: ["/:/host"], binds.add: ["/run:/run"], runtime: {mkdir: [/m], cgroups: [c]}}`)
	for _, tc := range []struct{ yaml, grants, lost string }{
		{"{}", "capabilities all, / at /host read-write, /run read-write, runtime cgroups c, runtime mkdir /m", "binds, binds.add, capabilities, runtime.cgroups, runtime.mkdir"},
		{"capabilities: [CAP_KILL]", "/ at /host read-write, /run read-write, runtime cgroups c, runtime mkdir /m", "binds, binds.add, runtime.cgroups, runtime.mkdir"},
		{"binds: []\ncapabilities: []", "runtime cgroups c, runtime mkdir /m", "runtime.cgroups, runtime.mkdir"},
		{"binds.add: [\"/run:/run\"]\nruntime: {mkdir: [/other]}", "capabilities all, / at /host read-write, runtime cgroups c", "binds, binds.add, capabilities, runtime.cgroups"},
	} {
		yaml := config.Container{}
		if tc.yaml != "{}" {
			yaml = yamlOf(t, tc.yaml)
		}
		if got := strings.Join(Grants(yaml, label), ", "); got != tc.grants {
			t.Errorf("%s: grants %s, want %s", tc.yaml, got, tc.grants)
		}
		if got := strings.Join(Lost(yaml, label), ", "); got != tc.lost {
			t.Errorf("%s: lost %s, want %s", tc.yaml, got, tc.lost)
		}
	}
}
