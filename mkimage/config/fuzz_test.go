package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// FuzzMerge merges any two files. What is taken is what both have, in order, and every
// mistake names one of the files.
func FuzzMerge(f *testing.F) {
	f.Add(base, added)
	f.Add(added, base)
	f.Add("kernel: {tar: \"\"}\ninit: &a [x]\n", "init: []\nservices: [{name: s, image: x, devices: [{path: all}]}]\n")
	f.Add("services: [{name: x, image: y}]\n", "services: [{name: x, image: y}]\n")
	f.Add("0", "{0\r0")
	f.Add("init: [a]\n---\ninit: [b]\n", "<<: {init: [a]}\n")
	f.Fuzz(func(t *testing.T, first, second string) {
		one, err1 := Parse("one", []byte(first))
		two, err2 := Parse("two", []byte(second))
		both, err := ParseAll(Input{Name: "one", Text: []byte(first)}, Input{Name: "two", Text: []byte(second)})
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("the error is %T %v", err, err)
			}
			for _, p := range problems {
				if p.File != "one" && p.File != "two" || p.Line < 0 || p.Line > lines(first)+1 && p.Line > lines(second)+1 {
					t.Errorf("a mistake of no file: %+v", p)
				}
			}
			return
		}
		if err1 != nil || err2 != nil {
			return // one names a container or volume of the other
		}
		for _, list := range []struct {
			what             string
			one, two, merged int
		}{
			{"init", len(one.Init), len(two.Init), len(both.Init)},
			{"onboot", len(one.Onboot), len(two.Onboot), len(both.Onboot)},
			{"onshutdown", len(one.Onshutdown), len(two.Onshutdown), len(both.Onshutdown)},
			{"services", len(one.Services), len(two.Services), len(both.Services)},
			{"files", len(one.Files), len(two.Files), len(both.Files)},
			{"volumes", len(one.Volumes), len(two.Volumes), len(both.Volumes)},
		} {
			if list.merged != list.one+list.two {
				t.Errorf("%s: %d and %d became %d", list.what, list.one, list.two, list.merged)
			}
		}
		if want := two.Kernel.Image; want != "" && both.Kernel.Image != want {
			t.Errorf("the kernel is %q, want %q", both.Kernel.Image, want)
		}
		for i := range both.Services {
			file := "one"
			if i >= len(one.Services) {
				file = "two"
			}
			if p := both.Problem(fmt.Sprintf("services[%d]", i), "x"); p.File != file {
				t.Errorf("service %d is in %s, want %s", i, p.File, file)
			}
		}
	})
}

// lines counts the lines of a YAML, whose breaks are several.
func lines(text string) int {
	n := 1
	for _, r := range text {
		if strings.ContainsRune("\n\r\u0085\u2028\u2029", r) {
			n++
		}
	}
	return n
}

// FuzzLabel reads any label. What is taken has only names of the containers there are.
func FuzzLabel(f *testing.F) {
	f.Add(`{"capabilities": ["CAP_NET_ADMIN"], "binds": ["/a:/b"], "uid": "web", "runtime": {"mkdir": ["/x"]}}`)
	f.Add("net: new\nresources: {memory: {limit: 1}}\ndevices: [{path: all}]\nannotations: {keelson.restart: never}\n")
	f.Add("name: x\nimage: y\n")
	f.Add("uidMappings: [{hostID: -1, containerID: 0, size: 99999999999}]\nrlimits: [\"nofile,1,2\"]\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, section := range Sections {
			c, err := ParseLabel("label", section, []string{"web"}, text)
			var problems Problems
			if err != nil {
				if !errors.As(err, &problems) || len(problems) == 0 {
					t.Fatalf("the error is %T %v", err, err)
				}
				continue
			}
			for _, id := range []*ID{c.UID, c.GID} {
				if id != nil && id.Name != "" && id.Name != "root" && id.Name != "web" {
					t.Errorf("the user %q was taken", id.Name)
				}
			}
			if c.Rlimits != nil {
				for _, r := range *c.Rlimits {
					if _, soft, hard, err := ParseRlimit(r); err != nil || soft > hard {
						t.Errorf("the limit %q was taken", r)
					}
				}
			}
		}
	})
}
