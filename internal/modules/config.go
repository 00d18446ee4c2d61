package modules

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// config is what modprobe.d(5) and the kernel command line say about modules.
type config struct {
	blacklist map[string]bool     // not to be loaded by an alias
	never     map[string]bool     // install NAME /bin/true or /bin/false: not to be loaded at all
	options   map[string][]string // module -> parameters, in order
	aliases   []configAlias
	soft      map[string]softdep
}

type configAlias struct {
	pattern, module string
}

// readConfig reads modprobe.d's folders and the kernel command line. A file of
// one name in an earlier folder takes the place of one in a later folder. What is below /run
// is not read: it is not the image's, and containers may write there.
func readConfig(root string) config {
	c := config{blacklist: map[string]bool{}, never: map[string]bool{}, options: map[string][]string{}, soft: map[string]softdep{}}
	files := map[string]string{}
	for _, dir := range []string{"/etc/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"} {
		entries, _ := os.ReadDir(filepath.Join(root, dir))
		for _, e := range entries {
			if _, taken := files[e.Name()]; !taken && strings.HasSuffix(e.Name(), ".conf") {
				files[e.Name()] = filepath.Join(root, dir, e.Name())
			}
		}
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if text, err := os.ReadFile(files[name]); err == nil {
			c.addFile(string(text))
		}
	}
	cmdline, _ := os.ReadFile(filepath.Join(root, "/proc/cmdline"))
	c.addCmdline(string(cmdline))
	return c
}

// addFile takes the lines of one modprobe.d file. install and remove run
// commands, which nothing here does: of them only the common way to switch a
// module off is understood.
func (c *config) addFile(text string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		name := normalize(f[1])
		switch f[0] {
		case "blacklist":
			c.blacklist[name] = true
		case "options":
			c.options[name] = append(c.options[name], f[2:]...)
		case "alias":
			if len(f) >= 3 {
				c.aliases = append(c.aliases, configAlias{pattern: f[1], module: normalize(f[2])})
			}
		case "softdep":
			c.soft[name] = addSoftdep(c.soft[name], f[2:])
		case "install":
			if len(f) == 3 && (filepath.Base(f[2]) == "true" || filepath.Base(f[2]) == "false") {
				c.never[name] = true
			}
		}
	}
}

// addCmdline takes MODULE.PARAMETER[=VALUE] and modprobe.blacklist=A,B.
func (c *config) addCmdline(cmdline string) {
	for _, word := range splitCmdline(cmdline) {
		head, value, hasValue := strings.Cut(word, "=")
		module, param, ok := strings.Cut(head, ".")
		if !ok || module == "" || param == "" {
			continue
		}
		module = normalize(module)
		if module == "modprobe" && param == "blacklist" {
			for name := range strings.SplitSeq(value, ",") {
				c.blacklist[normalize(name)] = true
			}
			continue
		}
		if hasValue {
			param += "=" + value
		}
		c.options[module] = append(c.options[module], param)
	}
}

// splitCmdline splits at white space outside of double quotes. The quotes stay:
// the kernel takes them off a module's parameters itself. What follows "--" is
// for init.
func splitCmdline(s string) []string {
	var words []string
	var word strings.Builder
	quoted := false
	for i := 0; i <= len(s); i++ {
		if i == len(s) || !quoted && strings.IndexByte(" \t\n", s[i]) >= 0 {
			if word.String() == "--" {
				return words
			}
			if word.Len() > 0 {
				words = append(words, word.String())
				word.Reset()
			}
			continue
		}
		if s[i] == '"' {
			quoted = !quoted
		}
		word.WriteByte(s[i])
	}
	return words
}

// aliased returns the modules modprobe.d names for an alias.
func (c *config) aliased(name string) []string {
	var found []string
	for _, a := range c.aliases {
		if glob(a.pattern, name) && !slices.Contains(found, a.module) {
			found = append(found, a.module)
		}
	}
	return found
}

// params joins a module's parameters with those of one call; of two for one name
// the kernel takes the later.
func (c *config) params(name, extra string) string {
	all := strings.Join(c.options[name], " ")
	switch {
	case extra == "":
		return all
	case all == "":
		return extra
	}
	return all + " " + extra
}
