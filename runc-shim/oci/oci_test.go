package oci

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestLoadSpecNamesWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		`{`:                          "unexpected end",
		`{"process":{"args":["x"]}}`: "root must be specified",
		`{"root":{"path":"r"}}`:      "process property",
		`{"root":{},"process":{}}`:   "process.cwd",
		`{"root":{},"process":{"cwd":"x","args":["a"]}}`: "absolute",
		`{"root":{},"process":{"cwd":"/"}}`:              "process.args",
		`{"root":{"path":3}}`:                            "root.path",
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, SpecFile)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadSpec(dir)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one with %q and the path", text, err, want)
		}
	}
	if _, err := LoadSpec(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("no file: %v", err)
	}
}

func TestInDoesNotMoveTheProcess(t *testing.T) {
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	inside := ""
	err = In(dir, func() error {
		buf := make([]byte, 4096)
		n, err := unix.Getcwd(buf)
		if err == nil {
			inside = string(buf[:n-1])
		}
		return err
	})
	if errors.Is(err, unix.EPERM) {
		t.Skip("unshare(CLONE_FS) is not allowed here")
	}
	if err != nil || inside != dir {
		t.Errorf("inside %q %v, want %q", inside, err, dir)
	}
	if after, err := os.Getwd(); err != nil || after != before {
		t.Errorf("now in %q %v, was in %q", after, err, before)
	}
	if err := In("/no/such/bundle", func() error { return nil }); err == nil {
		t.Error("a missing bundle is no error")
	}
}

func TestThrottleAndWeightChangesKeepOtherDevices(t *testing.T) {
	list := []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 0, 1), cgroups.NewThrottleDevice(8, 16, 2)}
	d := specs.LinuxThrottleDevice{Rate: 9}
	d.Major, d.Minor = 8, 0
	got := setThrottle(list, []specs.LinuxThrottleDevice{d})
	if len(got) != 2 || got[0].Minor != 16 || got[0].Rate != 2 || got[1].Minor != 0 || got[1].Rate != 9 {
		t.Errorf("%v", got)
	}
	w := specs.LinuxWeightDevice{}
	w.Major, w.Minor = 8, 0
	leaf := uint16(7)
	w.LeafWeight = &leaf
	weights := setWeight([]*cgroups.WeightDevice{cgroups.NewWeightDevice(8, 0, 5, 6)}, w)
	if len(weights) != 1 || weights[0].Weight != 5 || weights[0].LeafWeight != 7 {
		t.Errorf("%v", weights[0])
	}
}
