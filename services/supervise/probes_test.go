package supervise

import "testing"

func TestWhoIsInACgroup(t *testing.T) {
	for _, tc := range []struct {
		table, cgroup string
		want          bool
	}{
		{"0::/services/web\n", "/services/web", true},
		{"0::/services/web/workers/1\n", "/services/web", true},
		{"0::/services/web (deleted)\n", "/services/web", true},
		{"0::/services/website\n", "/services/web", false},
		{"0::/services\n", "/services/web", false},
		{"0::/services/web/../other\n", "/services/web", false}, // seen from within a cgroup namespace
		{"0::/\n", "/services/web", false},
		{"12:pids:/services/web\n1:name=systemd:/\n0::/\n", "/services/web", true},
		{"12:pids:/a:b\n", "/a:b", true},
		{"nonsense\n", "/services/web", false},
		{"", "/services/web", false},
		{"0::/anywhere\n", "/", true},
	} {
		if got := inCgroup(tc.table, tc.cgroup); got != tc.want {
			t.Errorf("%q in %s: %v", tc.table, tc.cgroup, got)
		}
	}
}
