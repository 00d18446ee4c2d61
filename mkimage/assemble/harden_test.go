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
  - name: twin
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
	for verbose, want := range map[bool][]string{
		false: {"hardening   linuxkit: setup, old; auto: web, twin, router; strict: confined"},
		true: {
			"hardening   linuxkit: setup, old (nothing added)",
			"hardening   auto: web, twin (masked paths, read-only paths, /sys read-only, seccomp: default profile, no new privileges, no core dumps, pids limit 4096)",
			"hardening   auto: router (masked paths, read-only paths except /proc/sys/net, /sys read-only, seccomp: default profile, logging only, no core dumps, pids limit 4096)",
			"hardening   strict: confined (masked paths, read-only paths, /sys read-only, seccomp: default profile without rare socket families, no new privileges, no core dumps, pids limit 4096)",
		},
	} {
		var got []string
		log := func(format string, a ...any) {
			if line := fmt.Sprintf(format, a...); strings.Contains(line, "hardening") {
				got = append(got, line)
			}
		}
		if _, err := Build(t.Context(), Options{Config: cfg, Dir: t.TempDir(), Resolver: store(t), Log: log, Verbose: verbose}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("verbose %v: got\n%s\nwant\n%s", verbose, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// Of many containers a line names a few; with --verbose all.
func TestHardeningOfManyIsShort(t *testing.T) {
	var list []hardened
	for i := range 30 {
		list = append(list, hardened{fmt.Sprintf("c%d", i), "auto", "no core dumps"})
	}
	var got string
	log := func(format string, a ...any) { got += fmt.Sprintf(format, a...) }
	reportHardening(list, false, log)
	if want := "hardening   auto: c0, c1, c2, c3, c4, c5, c6, c7, and 22 more"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	got = ""
	if reportHardening(list, true, log); !strings.HasSuffix(got, "c28, c29 (no core dumps)") {
		t.Errorf("verbose: got %s", got)
	}
	got = ""
	if reportHardening(nil, false, log); got != "" {
		t.Errorf("without containers: got %s", got)
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
