package supervise

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestScriptsHaveTheirTurn(t *testing.T) {
	names := []string{"000-issue", "005-volumes", "007-x", "010-onboot", "010-onboot-more", "020-containerd", "99-last"}
	for _, tc := range []struct{ after, before, want string }{
		{"", stepVolumes, "000-issue 005-volumes"},
		{stepVolumes, stepOnboot, "007-x 010-onboot"},
		{stepOnboot, stepServices, "010-onboot-more 020-containerd"},
		{stepServices, "", "99-last"},
	} {
		var got []string
		for _, name := range names {
			if between(name, tc.after, tc.before) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("between %q and %q: %q", tc.after, tc.before, got)
		}
	}
}

func TestOwnStep(t *testing.T) {
	dir := t.TempDir()
	for name, to := range map[string]string{
		"005-volumes": "/usr/bin/service", "010-onboot": "../../usr/bin/service", "020-containerd": "/bin/sh", "003-mine": "/usr/bin/service",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "010-onshutdown"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"005-volumes": true, "010-onboot": true, "020-containerd": false, "003-mine": false, "010-onshutdown": false} {
		if got := ownStep(filepath.Join(dir, name)); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
