package bundle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const good = `{"ociVersion":"1.0.0","process":{"args":["/bin/httpd","-f"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]}}`

// folder makes a container folder with the files given, name by name.
func folder(t *testing.T, name string, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	dir := folder(t, "web", map[string]string{"config.json": good, "runtime.json": `{"cgroups":["x"],"mounts":[{"type":"tmpfs","destination":"/tmp"}],"mkdir":["/var/web"],"interfaces":[{"name":"veth0","peer":"veth1","createInRoot":true}],"bindNS":{"net":"/run/netns/web"},"namespace":"mine"}`})
	b, err := Load(Services, dir)
	if err != nil {
		t.Fatal(err)
	}
	if b.ID != "web" || b.Namespace() != "mine" || b.Rootfs() != dir+"/rootfs" || b.CgroupsPath() != "/services/web" ||
		b.Runtime.Interfaces[0] != (Interface{"veth0", "", "veth1", true}) || b.Runtime.BindNS.Net != "/run/netns/web" || b.Runtime.Mkdir[0] != "/var/web" {
		t.Errorf("got %+v", b)
	}
	b, err = Load(Onboot, folder(t, "000-dhcp", map[string]string{"config.json": strings.Replace(good, `"linux":{`, `"annotations":{"keelson.timeout":"5s"},"linux":{"cgroupsPath":"mine/dhcp",`, 1)}))
	if err != nil {
		t.Fatal(err)
	}
	if b.ID != "onboot.000-dhcp" || b.Namespace() != DefaultNamespace || b.CgroupsPath() != "/mine/dhcp" || b.OneShot.Timeout != 5*time.Second {
		t.Errorf("got %+v", b)
	}
	for section, want := range map[Section]string{Onboot: "/services/.onboot/000-dhcp", Onshutdown: "/services/.onshutdown/000-dhcp"} {
		b, err := Load(section, folder(t, "000-dhcp", map[string]string{"config.json": good}))
		if err != nil || b.CgroupsPath() != want {
			t.Errorf("the cgroup of %s is %s, want %s (%v)", b.ID, b.CgroupsPath(), want, err)
		}
	}
}

func TestLoadNamesFileLineAndField(t *testing.T) {
	for _, tc := range []struct {
		what, file, text, want string
	}{
		{"no config", "other.json", "", "config.json: no such file"},
		{"empty config", "config.json", "", "config.json: empty, want a JSON object"},
		{"cut short", "config.json", "{\n\"process\":{", "config.json: not JSON: the document is cut short"},
		{"not JSON", "config.json", "{\n\"process\": oops}", "config.json:2: not JSON: invalid character 'o'"},
		{"trailing text", "config.json", good + "\n{}", "config.json:2: more text after the end"},
		{"wrong type", "config.json", "{\"process\":{\n\"args\":\"httpd\"}}", "config.json:2: process.args is a string, want a list"},
		{"no process", "config.json", "{}", "config.json: process is missing"},
		{"no args", "config.json", strings.Replace(good, `"/bin/httpd","-f"`, "", 1), "config.json: process.args is empty"},
		{"no root", "config.json", strings.Replace(good, `"root":{"path":"rootfs"},`, "", 1), "config.json: root.path is missing"},
		{"no linux", "config.json", strings.Replace(good, `"linux"`, `"linus"`, 1), "config.json: linux is missing"},
		{"the cgroup of all", "config.json", strings.Replace(good, `"linux":{`, `"linux":{"cgroupsPath":"/",`, 1), `config.json: linux.cgroupsPath: "/" is the whole machine`},
		{"out of the cgroup of all", "config.json", strings.Replace(good, `"linux":{`, `"linux":{"cgroupsPath":"../..",`, 1), `config.json: linux.cgroupsPath: "../.." is the whole machine`},
		{"the cgroup of the services", "config.json", strings.Replace(good, `"linux":{`, `"linux":{"cgroupsPath":"services/",`, 1), "config.json: linux.cgroupsPath: /services holds the groups of all"},
		{"the cgroup of the one-shots", "config.json", strings.Replace(good, `"linux":{`, `"linux":{"cgroupsPath":"services/.onboot",`, 1), "config.json: linux.cgroupsPath: /services/.onboot holds the groups of all"},
		{"the system's cgroup", "config.json", strings.Replace(good, `"linux":{`, `"linux":{"cgroupsPath":"keelson/supervisor",`, 1), "config.json: linux.cgroupsPath: /keelson/supervisor holds the system itself"},
		{"runtime of the wrong type", "runtime.json", "[]", "runtime.json:1: the document is a list, want an object"},
		{"runtime field of the wrong type", "runtime.json", "{\"mkdir\":\n\"/var\"}", "runtime.json:2: mkdir is a string, want a list"},
		{"odd namespace", "runtime.json", `{"namespace":"a b"}`, `runtime.json: namespace "a b": use letters`},
	} {
		files := map[string]string{tc.file: tc.text}
		if tc.file == "runtime.json" {
			files["config.json"] = good
		}
		b, err := Load(Services, folder(t, "web", files))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.what, err, tc.want)
		}
		if b == nil || b.ID != "web" || b.Service.StopTimeout != 10*time.Second {
			t.Errorf("%s: the bundle should carry name and default policy, got %+v", tc.what, b)
		}
	}
	if _, err := Load(Services, folder(t, "my web", map[string]string{"config.json": good})); err == nil || !strings.Contains(err.Error(), `"my web" cannot be a container's`) {
		t.Errorf("odd name: got %v", err)
	}
}

func TestPolicyOfABrokenBundleIsKept(t *testing.T) {
	text := strings.Replace(good, `"process"`, `"annotations":{"keelson.on-failure":"reboot","keelson.nonsense":"1"},"proces"`, 1)
	b, err := Load(Services, folder(t, "web", map[string]string{"config.json": text}))
	if err == nil || b.Service.OnFailure != "reboot" {
		t.Errorf("got %v, %+v", err, b.Service)
	}
	if len(b.Warnings) != 1 || !strings.Contains(b.Warnings[0], "/web/config.json: annotations: keelson.nonsense") {
		t.Errorf("got %q", b.Warnings)
	}
}

func TestListIsInOrderAndTakesFoldersOnly(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"onboot/010-b", "onboot/000-z", "onboot/001-a"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "onboot/README"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := List(root, Onboot)
	want := []string{root + "/onboot/000-z", root + "/onboot/001-a", root + "/onboot/010-b"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := List(root, Services); len(got) > 0 || err != nil {
		t.Errorf("a section that is not there: %q, %v", got, err)
	}
}

func TestLabel(t *testing.T) {
	for _, tc := range []struct {
		section    Section
		name, want string
	}{
		{Onboot, "000-dhcp", "dhcp"},
		{Onshutdown, "012-say-bye", "say-bye"},
		{Services, "000-dhcp", "000-dhcp"},
		{Onboot, "dhcp", "dhcp"},
		{Onboot, "00-dhcp", "00-dhcp"},
		{Onboot, "000-", "000-"},
	} {
		if got := (&Bundle{Section: tc.section, Name: tc.name}).Label(); got != tc.want {
			t.Errorf("%s %s: %q, want %q", tc.section, tc.name, got, tc.want)
		}
	}
}
