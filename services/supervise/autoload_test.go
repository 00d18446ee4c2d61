package supervise

import "testing"

func TestOwnerOf(t *testing.T) {
	owners := map[string]string{"/services/web": "web", "/onboot/000-net": "net", "/mine": "odd"}
	for cgroup, want := range map[string]string{
		"/services/web": "web", "/services/web/docker/1": "web", "/services/webber": "/services/webber", "/onboot/000-net": "net",
		"/mine": "odd", "/": "", "/keelson/supervisor": "", "/keelsonish": "/keelsonish", "/kubepods/x": "/kubepods/x", "": "",
	} {
		if got := ownerOf(owners, cgroup); got != want {
			t.Errorf("%q belongs to %q, want %q", cgroup, got, want)
		}
	}
}
