package capture

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A restarted supervisor that finds a task ended, and its pipes with nobody to hold them, says that their last bytes
// may be gone; in no other case.
func TestUnheldPipesAreSaid(t *testing.T) {
	for _, c := range []struct {
		name            string
		made, held, new bool // the pipes were there, a shim has them, a new task was started
		said            bool
	}{
		{name: "the first start"},
		{name: "the shim lives", made: true, held: true},
		{name: "the shim is gone", made: true, said: true},
		{name: "another task was started", made: true, new: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			var said []string
			config := OutputConfig{Source: "web", Pipes: filepath.Join(dir, "io"), Base: filepath.Join(dir, "log", "web"),
				Warn: func(format string, a ...any) { said = append(said, fmt.Sprintf(format, a...)) }}
			y := machine(t, dir, 1<<30)
			if c.made {
				before, err := y.OpenOutput(config)
				if err != nil {
					t.Fatal(err)
				}
				if c.held {
					stdout, stderr := before.Paths()
					for _, path := range []string{stdout, stderr} {
						f, err := os.OpenFile(path, os.O_RDWR, 0) // as the shim has it
						if err != nil {
							t.Fatal(err)
						}
						defer f.Close()
					}
				}
				before.Close(true)
			}
			o, err := y.OpenOutput(config)
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close(true)
			if c.new {
				o.Paths()
			}
			o.Drain()
			o.Drain() // once is enough
			if want := map[bool]int{true: 1}[c.said]; len(said) != want {
				t.Errorf("said %q", said)
			}
		})
	}
}
