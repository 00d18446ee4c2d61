package supervise

import (
	"os"
	"path/filepath"
	"testing"
)

func TestContainerOf(t *testing.T) {
	dir := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const config = `{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{"cgroupsPath":%}}`
	for name, path := range map[string]string{"services/web": `""`, "services/apart": `"/limits/apart"`, "onboot/000-dhcp": `""`} {
		write("containers/"+name+"/config.json", config[:len(config)-3]+path+"}}")
	}
	of := containerOf(filepath.Join(dir, "containers"), dir)
	for cgroups, want := range map[string]string{
		"0::/services/web\n":                                "web",
		"0::/services/web/inner/most\n":                     "web",
		"0::/services/.onboot/000-dhcp\n":                   "dhcp",
		"0::/limits/apart/inner\n":                          "apart",
		"12:pids:/services/web\n11:cpu:/\n":                 "web",
		"0::/services/other\n":                              "",
		"0::/services/webbed\n":                             "",
		"0::/keelson/shim\n":                                "",
		"0::/\n":                                            "",
		"nonsense":                                          "",
		"0::/services/../services/web/../../keelson/shim\n": "",
	} {
		write("7/cgroup", cgroups)
		if got := of(7); got != want {
			t.Errorf("%q: %q, want %q", cgroups, got, want)
		}
	}
	if got := of(8); got != "" {
		t.Errorf("a process that has exited: %q", got)
	}
}
