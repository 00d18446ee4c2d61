package cmdline

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		text  string
		want  Options
		wrong string
	}{
		{"", Options{ShutdownTimeout: time.Minute}, ""},
		{"console=ttyS0 keelson.shutdown.timeout=5s\n", Options{ShutdownTimeout: 5 * time.Second}, ""},
		{"keelson.shutdown.timeout=5s keelson.shutdown.timeout=2m", Options{ShutdownTimeout: 2 * time.Minute}, ""},
		{"keelson.shutdown.timeout=5", Options{ShutdownTimeout: time.Minute}, "timeout=5 is not a duration"},
		{"keelson.shutdown.timeout=-1s", Options{ShutdownTimeout: time.Minute}, "above zero"},
		{"keelson.shutdown.timeout=9s keelson.shutdown.timeout=", Options{ShutdownTimeout: time.Minute}, "1m0s is in force"},
		{"xkeelson.shutdown.timeout=5s", Options{ShutdownTimeout: time.Minute}, ""},
		{"linuxkit.unified_cgroup_hierarchy=0", Options{ShutdownTimeout: time.Minute, CgroupV1: true}, ""},
		{"linuxkit.unified_cgroup_hierarchy=1", Options{ShutdownTimeout: time.Minute}, ""},
		{"linuxkit.unified_cgroup_hierarchy=01", Options{ShutdownTimeout: time.Minute}, ""},
	} {
		got, errs := Parse(tc.text)
		if got != tc.want {
			t.Errorf("Parse(%q) = %+v, want %+v", tc.text, got, tc.want)
		}
		switch {
		case tc.wrong == "" && len(errs) > 0:
			t.Errorf("Parse(%q): %v", tc.text, errs)
		case tc.wrong != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), tc.wrong)):
			t.Errorf("Parse(%q) says %v, want %q in it", tc.text, errs, tc.wrong)
		}
	}
}
