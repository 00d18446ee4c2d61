package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// RuntimeConfig is LinuxKit's /etc/containerd/runtime-config.toml: how an image
// wants containerd to be run.
type RuntimeConfig struct {
	// CliOpts are further options of containerd, separated by white space.
	CliOpts string `toml:"cliopts"`
	// Stdout and Stderr say where its output goes: "stdout", "stderr" (both the
	// console), or the absolute path of a file that is appended to.
	Stdout string `toml:"stdout"`
	Stderr string `toml:"stderr"`
}

// ReadRuntimeConfig reads such a file. One that is not there is an empty one;
// what cannot be used is an error, with what could be in the result.
func ReadRuntimeConfig(path string) (RuntimeConfig, error) {
	var c RuntimeConfig
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	dec := toml.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		var at *toml.DecodeError
		switch {
		case errors.As(err, &strict):
			row, _ := strict.Errors[0].Position()
			return c, fmt.Errorf("%s:%d: %s: no such key; there are cliopts, stderr and stdout", path, row, strings.Join(strict.Errors[0].Key(), "."))
		case errors.As(err, &at):
			row, _ := at.Position()
			if key := strings.Join(at.Key(), "."); key != "" && strings.Contains(err.Error(), "struct field") {
				return c, fmt.Errorf("%s:%d: %s: want a string in quotes", path, row, key)
			}
			return c, fmt.Errorf("%s:%d: %s", path, row, strings.TrimPrefix(err.Error(), "toml: "))
		}
		return c, fmt.Errorf("%s: %w", path, err)
	}
	for _, f := range []struct {
		key   string
		value *string
	}{{"stdout", &c.Stdout}, {"stderr", &c.Stderr}} {
		if v := *f.value; v != "" && v != "stdout" && v != "stderr" && !filepath.IsAbs(v) {
			*f.value = ""
			return c, fmt.Errorf("%s: %s: %q: want stdout, stderr or an absolute path", path, f.key, v)
		}
	}
	return c, nil
}

// Options returns CliOpts as single words.
func (c RuntimeConfig) Options() []string { return strings.Fields(c.CliOpts) }
