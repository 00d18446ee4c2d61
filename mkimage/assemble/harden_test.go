package assemble

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"keelson/mkimage/config"
)

func TestHardeningIsReported(t *testing.T) {
	const yaml = `onboot:
  - name: setup
    image: busybox
services:
  - name: web
    image: busybox
  - name: router
    image: busybox
    capabilities: [CAP_NET_ADMIN]
    annotations: {keelson.seccomp: log}
  - name: old
    image: busybox
    annotations: {keelson.harden: linuxkit}
  - name: confined
    image: busybox
    uid: 1000
    net: new
    annotations: {keelson.harden: strict}
`
	cfg, err := config.Parse("t.yml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	log := func(format string, a ...any) {
		line := fmt.Sprintf(format, a...)
		if strings.Contains(line, "hardening:") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	if _, err := Build(t.Context(), Options{Config: cfg, Dir: t.TempDir(), Resolver: store(t), Log: log}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"hardening: linuxkit (nothing added)",
		"hardening: auto (masked paths, read-only paths, /sys read-only, seccomp: default profile, no new privileges, no core dumps, pids limit 4096)",
		"hardening: auto (masked paths, read-only paths except /proc/sys/net, /sys read-only, seccomp: default profile, logging only, no core dumps, pids limit 4096)",
		"hardening: linuxkit (nothing added)",
		"hardening: strict (masked paths, read-only paths, /sys read-only, seccomp: default profile without rare socket families, no new privileges, no core dumps, pids limit 4096)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestStrictThatCannotBeIsRefused(t *testing.T) {
	const head = "services:\n  - name: web\n    image: busybox\n    annotations: {keelson.harden: strict}\n"
	for fields, want := range map[string]string{
		"": `t.yml:2: services[0]: uid: keelson.harden: strict wants a user other than 0, or a user namespace: write uid: 1000, or userns: new with uidMappings and gidMappings
t.yml:2: services[0]: net: keelson.harden: strict wants a network namespace of its own: write net: new`,
		"    uid: 0\n    net: new\n":     `t.yml:5: services[0].uid: keelson.harden: strict wants a user other than 0, or a user namespace: write uid: 1000, or userns: new with uidMappings and gidMappings`,
		"    uid: 1000\n    net: host\n": `t.yml:6: services[0].net: keelson.harden: strict wants a network namespace of its own: write net: new`,
	} {
		_, _, err := build(t, head+fields, t.TempDir())
		if err == nil || err.Error() != want {
			t.Errorf("%q: got\n%v, want\n%s", fields, err, want)
		}
	}
}
