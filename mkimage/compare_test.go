package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Builds of one YAML are the same in all formats that are read, and those of another are
// not; the exit code is that of diff(1).
func TestDiff(t *testing.T) {
	dir, store := project(t)
	out := filepath.Join(dir, "out")
	other := filepath.Join(dir, "other.yml")
	write(t, other, strings.ReplaceAll(yaml, "[/app, -c]", "[/app, -d]"))
	from := func(args ...string) []string {
		return append([]string{"diff", "--offline", "--store", store}, args...)
	}
	for _, file := range []string{"t.yml", "other.yml"} {
		must(t, "build", "-q", "--offline", "--store", store, "--efi-stub", stub(t, dir), "--format", "kernel+initrd,efi,raw-efi", "-o", out, filepath.Join(dir, file))
	}
	built := filepath.Join(out, "t")
	for _, same := range [][]string{{built, built + ".efi"}, {built + "-efi.img", built + "-initrd.img"}, {filepath.Join(dir, "t.yml"), built}} {
		if printed, _, err := mkimage(t, from(same...)...); err != nil || printed != "" {
			t.Errorf("%v: %v, %q", same, err, printed)
		}
	}
	want := "services c: 1 changed, of the same size\n  changed  config.json  "
	for _, differ := range [][]string{{built, filepath.Join(out, "other")}, {built, other}} {
		printed, errs, err := mkimage(t, from(differ...)...)
		var exit *exitError
		if !errors.As(err, &exit) || exit.code != 1 || exit.err != nil || errs != "" {
			t.Errorf("%v: got %v, %q", differ, err, errs)
		}
		if !strings.HasPrefix(printed, want) || !strings.HasSuffix(printed, "\n             process.args: [\"/app\",\"-c\"] -> [\"/app\",\"-d\"]\n") {
			t.Errorf("%v: got\n%s", differ, printed)
		}
		if printed, _, err := mkimage(t, from(append(differ, "-q")...)...); printed != "" || !errors.As(err, &exit) || exit.code != 1 {
			t.Errorf("-q: got %q, %v", printed, err)
		}
	}
	for want, args := range map[string][]string{
		"mkimage diff takes two images, got 1 arguments; see mkimage diff --help": {built},
		"unknown flag: --formt; see mkimage diff --help":                          {"--formt", built, built},
		"there is no " + dir + "/none, nor ":                                      {built, dir + "/none"},
	} {
		_, _, err := mkimage(t, from(args...)...)
		var exit *exitError
		if !errors.As(err, &exit) || exit.code != 2 || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: got %v, want code 2 and %s", args, err, want)
		}
	}
}

// The program ends with these codes, and says nothing of a difference but what it prints.
func TestDiffExits(t *testing.T) {
	dir := t.TempDir()
	for name, line := range map[string]string{"a": "quiet", "b": "quiet", "c": "loud"} {
		must(t, "build", "-q", "--store", dir+"/store", "--name", name, "-o", dir, cmdlineYAML(t, dir, line))
	}
	for _, test := range []struct {
		a, b string
		code int
		says string
	}{{"a", "b", 0, ""}, {"a", "c", 1, "command line:\n  removed  quiet rootfstype=ramfs\n  added    loud rootfstype=ramfs\n"}, {"a", "none", 2, "there is no "}} {
		cmd := exec.Command("/proc/self/exe", "diff", filepath.Join(dir, test.a), filepath.Join(dir, test.b))
		cmd.Env = append(os.Environ(), "KEELSON_TEST_MKIMAGE=1")
		said, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.HasPrefix(string(said), test.says) || test.code < 2 && string(said) != test.says {
			t.Errorf("%s and %s: code %d, %q", test.a, test.b, code, said)
		}
	}
}

func cmdlineYAML(t *testing.T, dir, line string) string {
	t.Helper()
	name := filepath.Join(dir, line+".yml")
	write(t, name, "kernel: {cmdline: "+line+", tar: none}\nfiles: [{path: x, contents: y}]\n")
	return name
}
