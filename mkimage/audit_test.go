package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"keelson/internal/audit"
	"keelson/mkimage/config"
	"keelson/mkimage/images"
	"keelson/mkimage/imagetest"
)

// judged is an image with a container of each kind, and where it is.
func judged(t *testing.T) (dir, store, file string) {
	t.Helper()
	dir, store = project(t)
	labelled := imagetest.Image(t, v1.Config{Cmd: []string{"/app"}, Labels: map[string]string{
		config.Label: `{"capabilities": ["all"], "pid": "host", "binds": ["/:/host"], "readonly": true}`,
	}}, []imagetest.Entry{imagetest.Executable("app", string(imagetest.Program()))})
	if err := images.OpenStore(store).Put("docker.io/you/labelled:latest", labelled, nil); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "judged.yml")
	write(t, file, `kernel: {image: you/kernel, tar: none}
init: [you/init]
onboot:
  - {name: setup, image: you/app}
services:
  - {name: plain, image: you/app}
  - name: backup
    image: you/app
    binds: ["/:/host:ro", "/dev:/dev"]
    annotations: {keelson.audit.accept: "WritableDev: it writes disks; User: it reads everything"}
  - {name: labelled, image: you/labelled}
volumes: [{name: v, image: you/app}]
`)
	return dir, store, file
}

func TestAudit(t *testing.T) {
	_, store, file := judged(t)
	out := must(t, "audit", "--store", store, "--offline", file)
	for _, want := range []string{
		`(?s)^services labelled: exposure 9\.\d UNSAFE \(\S+judged.yml:11\).*services plain: exposure 2\.0 OK`,
		`onboot setup: exposure 5\.0 MEDIUM \(\S+judged.yml:4\)`,
		`(?m)^  WritableRoot +gate +does not write to the machine's root +bind of / `,
		`(?m)^  PrivateNetwork +2500 +has a network of its own +the machine's +net: new`,
		`(?m)^  WritableDev +accepted +.*bind of /dev +\(it writes disks\)$`,
		`(?m)^  User +accepted +.*\(it reads everything\)$`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	var list []struct {
		Name     string
		Exposure float64
		Line     int
		Findings []audit.Finding
	}
	if err := json.Unmarshal([]byte(must(t, "audit", "--store", store, "--offline", "-o", "json", file)), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 4 || list[0].Name != "labelled" || list[0].Exposure < 9 || list[0].Line != 11 || len(list[0].Findings) != len(audit.Checks())+len(audit.Gates()) {
		t.Errorf("%+v", list)
	}
	// Without its label the same container is an ordinary one.
	if out := must(t, "audit", "--store", store, "--offline", "--no-labels", file); !regexp.MustCompile(`services labelled: exposure 2\.0 OK`).MatchString(out) {
		t.Errorf("without labels:\n%s", out)
	}
	if _, _, err := mkimage(t, "audit", "--store", store, "-o", "xml", file); err == nil || !strings.Contains(err.Error(), "text, json, sarif") {
		t.Errorf("-o xml: %v", err)
	}
}

// What runtime.json mounts in a container counts as well.
func TestAuditOfRuntimeMounts(t *testing.T) {
	_, store, file := judged(t)
	write(t, file, "kernel: {image: you/kernel, tar: none}\ninit: [you/init]\nservices:\n  - {name: plain, image: you/app}\n"+
		"  - {name: odd, image: you/app, runtime: {mounts: [{type: bind, source: /, destination: host, options: [rbind]}]}}\n")
	out := must(t, "audit", "--store", store, "--offline", file)
	if !regexp.MustCompile(`(?s)^services odd: exposure 9\.0 UNSAFE.*WritableRoot.*services plain: exposure 2\.0`).MatchString(out) || strings.Count(out, " gate ") != 1 {
		t.Errorf("got\n%s", out)
	}
}

func TestKernelCommandLineTakesHardeningAway(t *testing.T) {
	_, store, file := judged(t)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, strings.Replace(string(text), "tar: none", "tar: none, cmdline: console=ttyS0 keelson.harden=linuxkit", 1))
	if out := must(t, "audit", "--store", store, "--offline", file); !strings.Contains(out, "services plain: exposure 5.0 MEDIUM") {
		t.Errorf("got\n%s", out)
	}
}

func TestThreshold(t *testing.T) {
	dir, store, file := judged(t)
	for limit, want := range map[string]string{
		"9.9": "", "10": "", "5.0": "the exposure of services labelled (", "1.9": "services plain (2.0) is above 1.9",
	} {
		out, _, err := mkimage(t, "audit", "--store", store, "--offline", "--threshold", limit, file)
		if got := err != nil; got != (want != "") || got && !strings.Contains(err.Error(), want) {
			t.Errorf("--threshold %s: %v, want %q", limit, err, want)
		}
		if !strings.Contains(out, "services labelled") {
			t.Errorf("--threshold %s: the table is missing", limit)
		}
	}
	for _, limit := range []string{"10.1", "-1", "3.05", "x", "256"} {
		if _, _, err := mkimage(t, "audit", "--store", store, "--threshold", limit, file); err == nil || !strings.Contains(err.Error(), "from 0.0 to 10.0") {
			t.Errorf("--threshold %s: %v", limit, err)
		}
	}
	result := filepath.Join(dir, "out")
	build := func(limit string) error {
		_, _, err := mkimage(t, "build", "--store", store, "--offline", "--audit", limit, "-o", result, file)
		return err
	}
	if err := build("3.0"); err == nil || !strings.Contains(err.Error(), "services labelled") || strings.Contains(err.Error(), "plain") || !strings.Contains(err.Error(), "mkimage audit "+file) {
		t.Errorf("build --audit 3.0: %v", err)
	}
	if list, _ := os.ReadDir(result); len(list) > 0 {
		t.Errorf("a build that was refused wrote %v", list)
	}
	if err := build("9.9"); err != nil {
		t.Error(err)
	}
}

// The shape of SARIF 2.1.0, by its schema's required properties and value sets.
func TestSARIF(t *testing.T) {
	_, store, file := judged(t)
	t.Chdir(filepath.Dir(file))
	var log struct {
		Schema  string `json:"$schema"`
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct {
					Name  string
					Rules []struct{ ID string }
				}
			}
			Results []struct {
				RuleID    string
				RuleIndex int
				Level     string
				Message   struct{ Text string }
				Locations []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           struct{ StartLine int }
					}
				}
				Suppressions []struct{ Kind, Justification string }
			}
		}
	}
	d := json.NewDecoder(strings.NewReader(must(t, "audit", "--store", store, "--offline", "-o", "sarif", "judged.yml")))
	if err := d.Decode(&log); err != nil {
		t.Fatal(err)
	}
	if log.Version != "2.1.0" || log.Schema == "" || len(log.Runs) != 1 || log.Runs[0].Tool.Driver.Name == "" {
		t.Fatalf("%+v", log)
	}
	run := log.Runs[0]
	lines := map[int]bool{}
	accepted := 0
	for _, r := range run.Results {
		if run.Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID {
			t.Errorf("rule %d is not %s", r.RuleIndex, r.RuleID)
		}
		if (r.Level != "error" && r.Level != "warning" && r.Level != "note") || r.Message.Text == "" || len(r.Locations) != 1 {
			t.Errorf("%+v", r)
		}
		where := r.Locations[0].PhysicalLocation
		if where.ArtifactLocation.URI != "judged.yml" {
			t.Errorf("%+v", where)
		}
		lines[where.Region.StartLine] = true
		for _, s := range r.Suppressions {
			if s.Kind != "inSource" || s.Justification == "" {
				t.Errorf("%+v", s)
			}
			accepted++
		}
	}
	if len(lines) != 4 || !lines[4] || !lines[6] || !lines[7] || !lines[11] || accepted != 2 {
		t.Errorf("lines %v, %d accepted", lines, accepted)
	}
}

func TestLabelsAreShown(t *testing.T) {
	dir, store, file := judged(t)
	_, log, err := mkimage(t, "build", "--store", store, "--offline", "-o", dir, file)
	if err != nil || !regexp.MustCompile(`(?m)^services +labelled +label grants: capabilities all, pid host, / at /host read-write$`).MatchString(log) {
		t.Errorf("%v\n%s", err, log)
	}
	if strings.Count(log, "label grants") != 1 {
		t.Errorf("a container without a label has one:\n%s", log)
	}
	_, log, err = mkimage(t, "build", "--no-labels", "--store", store, "--offline", "-o", dir, file)
	if err != nil || !regexp.MustCompile(`(?m)^services +labelled +label ignored: binds, capabilities, pid, readonly$`).MatchString(log) || strings.Contains(log, "grants") {
		t.Errorf("%v\n%s", err, log)
	}
}

// A lock covers kernel, init, containers and volumes, is made by the first build, and
// refuses a changed image before anything is written.
func TestLockFile(t *testing.T) {
	dir, store, file := judged(t)
	name := filepath.Join(dir, "judged.lock")
	build := func(out string) (string, error) {
		_, log, err := mkimage(t, "build", "--lock", name, "--store", store, "--offline", "-o", filepath.Join(dir, out), file)
		return log, err
	}
	log, err := build("1")
	if err != nil || strings.Count(log, "recorded in "+name) != 4 {
		t.Fatalf("%v\n%s", err, log)
	}
	first, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{"app", "init", "kernel", "labelled"} {
		if !regexp.MustCompile(`(?m)^docker.io/you/` + image + `:latest sha256:[0-9a-f]{64}$`).Match(first) {
			t.Errorf("no %s in\n%s", image, first)
		}
	}
	if log, err := build("2"); err != nil || strings.Contains(log, "recorded") {
		t.Errorf("again: %v\n%s", err, log)
	}
	write(t, filepath.Join(dir, "app", "app"), "another")
	must(t, "import", "--store", store, "you/app", filepath.Join(dir, "app"), "--cmd", "/app")
	_, err = build("3")
	if err == nil || !regexp.MustCompile(`judged.yml:4: onboot\[0\].image: image docker.io/you/app:latest is sha256:[0-9a-f]{64}, but \S+ has sha256:[0-9a-f]{64}; to accept`).MatchString(err.Error()) {
		t.Errorf("changed: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "3", "judged-initrd.img")); err == nil {
		t.Error("a changed image was built")
	}
	if _, _, err := mkimage(t, "audit", "--store", store, file); err != nil {
		t.Error(err)
	}
	write(t, name, regexp.MustCompile(`(?m)^docker.io/you/app:.*\n`).ReplaceAllString(string(first), ""))
	if log, err := build("4"); err != nil || strings.Count(log, "recorded in") != 1 {
		t.Errorf("accepted: %v\n%s", err, log)
	}
}
