package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson/internal/api"
	"keelson/internal/bundle"
	"keelson/services/resources"
	"keelson/services/task"
)

// TestLimitsRemember: the count of what a service has lost outlives the
// supervisor; an event tells each loss, and an end that says why is not said twice.
func TestLimitsRemember(t *testing.T) {
	dir := t.TempDir()
	var said []string
	var told []api.Event
	open := func() *limits {
		return openLimits(dir, func(name, format string, a ...any) { said = append(said, name+": "+fmt.Sprintf(format, a...)) },
			func(e api.Event) { told = append(told, e) })
	}
	web := &bundle.Bundle{Section: bundle.Services, Name: "web"}
	oom := resources.Hit{Kind: resources.OOM, Count: 2, Limit: 4096}
	l := open()
	end := func(b *bundle.Bundle) {
		l.hit(b, oom)
		l.ended(b, task.Exit{Status: 137, Known: true, Ending: resources.Ending{OOM: &oom}})
	}
	end(web)
	end(&bundle.Bundle{Section: bundle.Onboot, Name: "000-first"})
	l = open()
	end(web)
	if got := l.oomKills("web"); got != 4 {
		t.Errorf("%d processes were killed, not 4", got)
	}
	if len(told) != 3 || told[0].Kind != "resources" || told[0].Service != "web" || !strings.Contains(told[0].Cause, "limit 4 KiB") || told[1].Service != "first" {
		t.Errorf("events: %+v", told)
	}
	if len(said) > 0 {
		t.Errorf("said %q", said)
	}
	if err := os.WriteFile(filepath.Join(dir, "oomkills.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if open(); len(said) != 1 || !strings.Contains(said[0], "set aside") {
		t.Errorf("a corrupt file: %q", said)
	}
}
