package assemble

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"keelson/mkimage/config"
	"keelson/mkimage/images"
	"keelson/mkimage/imagetest"
)

func TestUsersThatCannotBeAreRefused(t *testing.T) {
	const mapping = "[{containerID: 0, hostID: 100000, size: 1000}]"
	for name, tc := range map[string]struct{ fields, want string }{
		"no mappings": {"    userns: new\n",
			`t.yml:4: services[0].userns: a new user namespace needs uidMappings: who its users are outside, as in [{containerID: 0, hostID: 100000, size: 65536}]
t.yml:4: services[0].userns: a new user namespace needs gidMappings: who its groups are outside, as in [{containerID: 0, hostID: 100000, size: 65536}]`},
		"no namespace": {"    uidMappings: " + mapping + "\n",
			"t.yml:4: services[0].uidMappings: is for a user namespace that the container makes: give userns: new, or leave it out"},
		"another's namespace": {"    userns: /run/ns/user\n    gidMappings: " + mapping + "\n",
			"t.yml:5: services[0].gidMappings: is for a user namespace that the container makes: give userns: new, or leave it out"},
		"a user who is not mapped": {"    userns: new\n    uidMappings: " + mapping + "\n    gidMappings: " + mapping + "\n    uid: 1000\n    gid: 7\n",
			"t.yml:7: services[0].uid: 1000 is not among the container's users: there are 0 to 999"},
		"a group that is not mapped": {"    userns: new\n    uidMappings: " + mapping + "\n    gidMappings: " + mapping + "\n    additionalGids: [5, 1000]\n",
			"t.yml:7: services[0].additionalGids[1]: 1000 is not among the container's groups: there are 0 to 999"},
	} {
		_, _, err := build(t, "services:\n  - name: web\n    image: busybox\n"+tc.fields, t.TempDir())
		if err == nil || err.Error() != tc.want {
			t.Errorf("%s: got\n%v, want\n%v", name, err, tc.want)
		}
	}
}

// YAML and label may each say half of it.
func TestUsersOfALabel(t *testing.T) {
	const yaml = "services:\n  - name: x\n    image: labelled\n"
	mapping := `[{"containerID": 0, "hostID": 100000, "size": 1000}]`
	for _, tc := range []struct{ label, fields, want string }{
		{`{"userns": "new"}`, "    uidMappings: " + mapping + "\n    gidMappings: " + mapping + "\n", ""},
		{`{"userns": "new", "uidMappings": ` + mapping + `, "gidMappings": ` + mapping + `, "uid": 1000}`, "",
			"t.yml:2: services[0]: uid of its image: 1000 is not among the container's users: there are 0 to 999"},
	} {
		s := store(t)
		ref, err := images.ParseRef("labelled", "")
		if err != nil {
			t.Fatal(err)
		}
		image := imagetest.Image(t, v1.Config{Cmd: []string{"/bin/x"}, Labels: map[string]string{config.Label: tc.label}}, []imagetest.Entry{imagetest.File("bin/x", "x")})
		if err := s.Store.Put(ref.Name, image, nil); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Parse("t.yml", []byte(yaml+tc.fields))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if _, err = Build(t.Context(), Options{Config: cfg, Dir: t.TempDir(), Resolver: s}); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.label, got, tc.want)
		}
	}
}
