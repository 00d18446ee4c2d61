package watchdog

import (
	"fmt"
	"strings"
	"time"
)

// DefaultTimeout is the watchdog's where the command line does not say.
const DefaultTimeout = 30 * time.Second

// Bounds of a timeout: below the first a machine that is merely busy would be
// reset, above the second a driver's seconds may not fit.
const (
	minTimeout = 2 * time.Second
	maxTimeout = time.Hour
)

// Setting is what the kernel command line says of the watchdog.
type Setting struct {
	Off     bool
	Timeout time.Duration
	// Asked says that a timeout was asked for, and is not just the default.
	Asked bool
}

const word = "keelson.watchdog"

// ParseSetting reads keelson.watchdog= from a kernel command line; the last one
// counts. With an error the default is in force.
func ParseSetting(cmdline string) (Setting, error) {
	s := Setting{Timeout: DefaultTimeout}
	var wrong error
	for _, w := range strings.Fields(cmdline) {
		name, value, _ := strings.Cut(w, "=")
		if name != word {
			continue
		}
		s, wrong = Setting{Timeout: DefaultTimeout}, nil
		d, err := time.ParseDuration(value)
		switch {
		case value == "off":
			s.Off = true
		case err != nil || d < minTimeout || d > maxTimeout:
			wrong = fmt.Errorf("kernel command line: %s is neither %s=off nor a duration from %v to %v such as %s=30s; %v is in force",
				w, word, minTimeout, maxTimeout, word, DefaultTimeout)
		default:
			s.Timeout, s.Asked = d, true
		}
	}
	return s, wrong
}
