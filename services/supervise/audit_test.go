package supervise

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A bind is judged by what the image names, whatever it was made from.
func TestUnpin(t *testing.T) {
	image := &specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Source: "/containers/volumes/d/merged"}, {Destination: "/a", Source: "/b"}}}
	made := &specs.Spec{Mounts: []specs.Mount{{Destination: "/a", Source: "/c"}, {Destination: "/data", Source: "/run/keelson/binds/web/0"}}}
	unpin(made, image)
	if made.Mounts[0].Source != "/c" || made.Mounts[1].Source != "/containers/volumes/d/merged" {
		t.Errorf("%+v", made.Mounts)
	}
}
