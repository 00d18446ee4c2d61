package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestABootThatIsForgottenIsNotRepeated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boot.json")
	var said []string
	open := func() *progress {
		return openProgress(path, func(format string, a ...any) { said = append(said, fmt.Sprintf(format, a...)) })
	}
	p := open()
	if p.SetDone("000-format"); p.Done("001-mount") {
		t.Error("a step that was not taken is done")
	}
	if p = open(); !p.Done("000-format") || p.Done("001-mount") || len(said) > 0 {
		t.Errorf("remembered: %+v, said %q", p.steps, said)
	}
	if err := os.WriteFile(path, []byte(`{"done":{"000-format"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if p = open(); !p.Done("000-format") || !p.Done("001-mount") {
		t.Error("a forgotten boot is repeated")
	}
	if len(said) != 1 || !strings.Contains(said[0], "set aside as "+path+".corrupt; the boot counts as over") {
		t.Errorf("said %q", said)
	}
	if p = open(); !p.Done("000-format") || len(said) != 1 {
		t.Errorf("a forgotten boot is repeated by a supervisor whose predecessor died at once; said %q", said)
	}
	p.SetDone("services") // now there is a file that can be read again
	if p = open(); !p.Done("000-format") {
		t.Error("a forgotten boot is repeated by the supervisor after the next")
	}
	// What comes when the machine goes down is no part of the boot.
	p.stopBy(time.Minute)
	if p.Done("000-unmount") {
		t.Error("a step of the shutdown counts as done")
	}
	if len(said) != 1 {
		t.Errorf("said %q", said)
	}
}
