package task

import (
	"testing"

	"keelson/services/resources"
)

func TestExitOutOfMemory(t *testing.T) {
	oom := &resources.Hit{Kind: resources.OOM, Count: 1, Limit: 64 << 20, Peak: 64 << 20}
	for _, c := range []struct {
		exit Exit
		want string
	}{
		{Exit{Status: 137, Known: true}, "killed by SIGKILL"},
		{Exit{Status: 137, Known: true, Ending: resources.Ending{OOM: oom}}, "killed by the kernel: out of memory (limit 64 MiB, peak 64.0 MiB)"},
		{Exit{Ending: resources.Ending{OOM: oom}}, "killed by the kernel: out of memory (limit 64 MiB, peak 64.0 MiB)"},
		{Exit{Status: 1, Known: true, Ending: resources.Ending{OOM: oom}}, "exited with code 1 when the kernel killed 1 process of it: out of memory (limit 64 MiB, peak 64.0 MiB)"},
		{Exit{Status: 0, Known: true, Ending: resources.Ending{OOM: oom}}, "exited with code 0"},
	} {
		if got := c.exit.String(); got != c.want {
			t.Errorf("%+v: %q", c.exit, got)
		}
	}
}
