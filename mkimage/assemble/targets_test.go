package assemble

import (
	"slices"
	"strings"
	"testing"
)

// TestTargets: what is mounted on is made where the machine cannot, and nowhere else.
func TestTargets(t *testing.T) {
	res := mustBuild(t, `
init: [keelson/init]
onboot:
  - name: fixed
    image: busybox
    readonly: true
    cwd: /srv/here
    binds: ["/etc/motd:/new/motd", "/run:/new/run", "/run/a.sock:/new/a.sock", "/var/lib/conf.d:/new/conf.d", "/etc:/bin/sh/../../up", "/usr:/dev/sub", "v:/data/v", "/lib:/data/v/in", "/var:/all", "/lib:/all/sub"]
    tmpfs: [/scratch, /bin]
    mounts: [{type: proc, source: proc, destination: /host/proc}]
    runtime: {mkdir: [made/a, /made/b, /var/lib/c, /etc/d], mounts: [{type: tmpfs, source: t, destination: extra}, {type: ext4, source: /dev/sda, destination: /disk}], bindNS: {net: /ns/net}}
services:
  - {name: free, image: you/web, binds: ["/run:/only/at/run/time"], cwd: /elsewhere, runtime: {mkdir: [relative]}}
volumes: [{name: v}]
files: [{path: etc/motd, contents: hello}]
`)
	var got paths
	if err := res.Root.Write(&got); err != nil {
		t.Fatal(err)
	}
	const image = "containers/onboot/000-fixed/rootfs/"
	for _, want := range []string{
		"0755 0:0 " + image + "srv/here/", "0644 0:0 " + image + "new/motd", "0755 0:0 " + image + "new/run/", "0644 0:0 " + image + "new/a.sock",
		"0755 0:0 " + image + "new/conf.d/", "0755 0:0 " + image + "data/v/", "0755 0:0 " + image + "scratch/", "0755 0:0 " + image + "host/proc/",
		"0755 0:0 " + image + "made/a/", "0755 0:0 " + image + "extra/", "0755 0:0 made/b/", "0755 0:0 etc/d/", "0755 0:0 disk/", "0644 0:0 ns/net",
	} {
		if !slices.ContainsFunc(got, func(line string) bool { return line == want || strings.HasPrefix(line, want+" ") }) {
			t.Errorf("no %s", want)
		}
	}
	for _, line := range got {
		for _, not := range []string{"dev/sub", "data/v/in", "all/sub", "var/lib/c", "only", "elsewhere", "relative"} {
			if strings.Contains(line, not) {
				t.Errorf("%s was made", line)
			}
		}
	}
}
