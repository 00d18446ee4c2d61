package assemble

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"keelson/mkimage/config"
	"keelson/mkimage/images"
	"keelson/mkimage/imagetest"
)

func TestOrderThatCannotBeIsRefused(t *testing.T) {
	for name, tc := range map[string]struct{ yaml, want string }{
		"cycle": {
			yaml: `services:
  - name: db
    image: busybox
    annotations: {keelson.after: "web"}
  - name: web
    image: busybox
    annotations:
      keelson.restart: never
      keelson.requires: "db"
`,
			want: `t.yml:4: services[0].annotations.keelson.after: "web": a cycle: db -> web -> db: none of them could be the first; take one of these out`,
		},
		"name that is no service's": {
			yaml: `onboot:
  - name: net
    image: busybox
services:
  - name: db
    image: busybox
  - name: web
    image: busybox
    annotations: {keelson.requires: "bd,net"}
`,
			want: `t.yml:9: services[1].annotations.keelson.requires: "bd,net": there is no service bd; did you mean db?` + "\n" +
				`t.yml:9: services[1].annotations.keelson.requires: "bd,net": there is no service net; there are db, web`,
		},
	} {
		_, _, err := build(t, tc.yaml, t.TempDir())
		if err == nil || err.Error() != tc.want {
			t.Errorf("%s: got\n%v, want\n%v", name, err, tc.want)
		}
	}
}

// What an image's label says counts as well, and has no line of its own in the YAML.
func TestOrderOfALabel(t *testing.T) {
	s := store(t)
	ref, err := images.ParseRef("labelled", "")
	if err != nil {
		t.Fatal(err)
	}
	image := imagetest.Image(t, v1.Config{
		Cmd:    []string{"/bin/x"},
		Labels: map[string]string{config.Label: `{"annotations": {"keelson.requires": "db"}}`},
	}, []imagetest.Entry{imagetest.File("bin/x", "x")})
	if err := s.Store.Put(ref.Name, image, nil); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse("t.yml", []byte("services:\n  - name: x\n    image: labelled\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Build(t.Context(), Options{Config: cfg, Dir: t.TempDir(), Resolver: s})
	want := `t.yml:2: services[0]: annotation keelson.requires of its image: "db": there is no service db; there are x`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %v", err, want)
	}
}
