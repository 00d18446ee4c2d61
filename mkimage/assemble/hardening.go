package assemble

import (
	"fmt"
	"strings"

	"keelson/internal/harden"
)

// hardened is what the machine will add to a container.
type hardened struct {
	name  string
	level harden.Level
	added string
}

// mostNames is how many containers a line names.
const mostNames = 8

// reportHardening logs which containers have which level, in one line; verbose, a line
// for all with the same additions, and these.
func reportHardening(list []hardened, verbose bool, log func(format string, a ...any)) {
	var keys []hardened // without names, in the order of the containers
	names := map[hardened][]string{}
	for _, h := range list {
		name := h.name
		h.name = ""
		if !verbose {
			h.added = ""
		}
		if names[h] == nil {
			keys = append(keys, h)
		}
		names[h] = append(names[h], name)
	}
	var line []string
	for _, k := range keys {
		who := names[k]
		if more := len(who) - mostNames; more > 0 && !verbose {
			who = append(who[:mostNames:mostNames], fmt.Sprintf("and %d more", more))
		}
		text := fmt.Sprintf("%s: %s", k.level, strings.Join(who, ", "))
		if verbose && k.added == "" {
			k.added = "nothing added"
		}
		if verbose {
			log("hardening   %s (%s)", text, k.added)
		}
		line = append(line, text)
	}
	if !verbose && len(line) > 0 {
		log("hardening   %s", strings.Join(line, "; "))
	}
}
