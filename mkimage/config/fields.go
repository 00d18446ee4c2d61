package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"

	"keelson/internal/bundle"
	"keelson/internal/policy"
	"keelson/mkimage/images"
)

var (
	volumeName = regexp.MustCompile(`^[a-z0-9_-]+$`)
	// containerd's rule for the ID of a container (pkg/identifiers), which is LinuxKit's
	// for services.
	serviceName = regexp.MustCompile(`^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$`)
	// runc's rule for the ID of a container, which is LinuxKit's for one-shots.
	oneShotName = regexp.MustCompile(`^[A-Za-z0-9_.+-]+$`)
)

// maxName is containerd's longest ID. A one-shot's name is part of a file's, which
// has 255 letters at most, the section, a number and ".out.log" among them.
const (
	maxName        = 76
	maxOneShotName = 200
)

func oneOf(words ...string) func(*checker, string, *value) {
	return func(c *checker, field string, v *value) {
		if !slices.Contains(words, v.text()) {
			c.add(v.line, field, "is %q, must be one of %s", v.text(), strings.Join(words, ", "))
		}
	}
}

func checkServiceName(c *checker, field string, v *value) {
	if n := v.text(); !serviceName.MatchString(n) || len(n) > maxName {
		c.add(v.line, field, "%q is no name for a service: letters and digits, single . _ - between them, at most %d in all", n, maxName)
	}
}

func checkOneShotName(c *checker, field string, v *value) {
	if n := v.text(); !oneShotName.MatchString(n) || len(n) > maxOneShotName {
		c.add(v.line, field, "%q is no name for a container: letters, digits and . _ + - only, at most %d in all", n, maxOneShotName)
	}
}

func checkNamespace(c *checker, field string, v *value) {
	if n := v.text(); n != "" && !serviceName.MatchString(n) {
		c.add(v.line, field, "%q is no containerd namespace: letters and digits, single . _ - between them", n)
	}
}

// checkCgroupsPath refuses the groups that the machine keeps for itself.
func checkCgroupsPath(c *checker, field string, v *value) {
	if err := bundle.CheckCgroupsPath(v.text()); err != nil {
		c.add(v.line, field, "%v", err)
	}
}

// namespaceWords are what stands for a namespace that is made or is the machine's; a
// path is one that is there already.
var namespaceWords = map[string][]string{
	"net": {"host", "root", "new", "none"}, "ipc": {"host", "root", "new"}, "uts": {"host", "root", "new"},
	"pid": {"host", "root", "new"}, "userns": {"host", "root", "new"},
}

// checkJoined checks which namespace of a kind a container is in.
func checkJoined(kind string) func(*checker, string, *value) {
	return func(c *checker, field string, v *value) {
		n := v.text()
		if n == "" || strings.HasPrefix(n, "/") || slices.Contains(namespaceWords[kind], n) {
			return
		}
		hint := ""
		if slices.Contains(c.names, n) {
			hint = "; a container's is joined by the path that its runtime.bindNS keeps it at"
		}
		c.add(v.line, field, "is %q, must be host, new, or the absolute path of a namespace%s", n, hint)
	}
}

func checkVolumeName(c *checker, field string, v *value) {
	if !volumeName.MatchString(v.text()) {
		c.add(v.line, field, "%q is no name for a volume: small letters, digits, _ and - only", v.text())
	}
}

func checkPlatforms(c *checker, field string, v *value) {
	want := images.Platform.String()
	for _, item := range v.items {
		if item.text() == want {
			return
		}
	}
	c.add(v.line, field, "has no %s, the only platform that can be built", want)
}

func checkImage(c *checker, field string, v *value) {
	if v.text() == "" {
		c.add(v.line, field, "is empty; name an image, such as nginx or you/app:1.2")
		return
	}
	if _, err := images.ParseRef(v.text(), ""); err != nil {
		c.add(v.line, field, "%v", err)
	}
}

func checkCmdline(c *checker, field string, v *value) {
	// A folded one (>) ends in a newline.
	if strings.ContainsAny(strings.TrimRight(v.text(), "\n"), "\n\x00") {
		c.add(v.line, field, "must be one line; with > instead of | YAML folds several into one")
	}
}

func checkOctal(c *checker, field string, v *value) {
	if n, err := strconv.ParseUint(v.text(), 8, 32); err != nil || n > 0o7777 {
		c.add(v.line, field, "is %q, must be an octal mode such as \"0644\"", v.text())
	}
}

func checkDevice(c *checker, field string, v *value) {
	if v.get("path").text() == "all" {
		return // a rule, for devices of any type if it names none
	}
	if v.get("type") == nil {
		c.add(v.line, field, "has no type:, which it needs")
	}
	if v.get("mode") == nil {
		c.add(v.line, field, "has no mode:, such as \"0666\"")
	}
}

func checkID(c *checker, field string, v *value) {
	if v.node.Tag == "!!int" {
		if _, err := strconv.ParseUint(v.text(), 10, 32); err != nil {
			c.add(v.line, field, "is %s, must be a decimal number from 0 to 4294967295", v.text())
		}
		return
	}
	if n := v.text(); n != "" && n != "root" && !slices.Contains(c.names, n) {
		c.add(v.line, field, "%q is no user: use a number, root, or the name of a container of this file", n)
	}
}

func checkOOM(c *checker, field string, v *value) {
	if n, err := strconv.Atoi(v.text()); err == nil && (n < -1000 || n > 1000) {
		c.add(v.line, field, "is %d, must be from -1000 to 1000", n)
	}
}

// Capabilities lists every capability by its full name, in order of its number.
func Capabilities() []string {
	var caps []string
	for _, k := range capability.ListKnown() {
		caps = append(caps, "CAP_"+strings.ToUpper(k.String()))
	}
	return caps
}

func checkCapabilities(c *checker, field string, v *value) {
	if len(v.items) == 1 {
		if w := strings.ToLower(v.items[0].text()); w == "all" || w == "none" {
			return
		}
	}
	for i, item := range v.items {
		name := item.text()
		if slices.Contains(Capabilities(), name) {
			continue
		}
		hint := "; capabilities(7) has the list"
		if full := "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_"); slices.Contains(Capabilities(), full) {
			hint = fmt.Sprintf("; did you mean %q?", full)
		}
		if w := strings.ToLower(name); w == "all" || w == "none" {
			hint = "; it must be the only one of the list"
		}
		c.add(item.line, fmt.Sprintf("%s[%d]", field, i), "unknown capability %q%s", name, hint)
	}
}

func checkBind(c *checker, field string, v *value) {
	parts := strings.Split(v.text(), ":")
	switch {
	case len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "":
		c.add(v.line, field, "is %q, must be SOURCE:DESTINATION or SOURCE:DESTINATION:OPTIONS, such as /var/lib:/data:ro", v.text())
	case !strings.HasPrefix(parts[1], "/"):
		c.add(v.line, field, "destination %q must be an absolute path", parts[1])
	}
}

func checkTmpfs(c *checker, field string, v *value) {
	parts := strings.Split(v.text(), ":")
	if len(parts) > 2 || !strings.HasPrefix(parts[0], "/") {
		c.add(v.line, field, "is %q, must be DESTINATION or DESTINATION:OPTIONS, such as /tmp:size=10m", v.text())
	}
}

// mountTypes are the ones whose name as the source, or whose usual place, fill
// in what a mount does not say.
var mountTypes = map[string]string{
	"proc": "/proc", "devpts": "/dev/pts", "sysfs": "/sys", "cgroup": "/sys/fs/cgroup", "mqueue": "/dev/mqueue",
}

// DefaultMountpoint returns where a file system is mounted if nobody says
// where; "" if it has no usual place.
func DefaultMountpoint(typ string) string { return mountTypes[typ] }

// DefaultMountType returns the type of a mount that has none: "" if nothing
// tells it.
func DefaultMountType(source, destination string) string {
	if _, ok := mountTypes[source]; ok {
		return source
	}
	if destination == "/dev" {
		return "tmpfs"
	}
	return ""
}

func checkMount(c *checker, field string, v *value) {
	typ, dest := v.get("type").text(), v.get("destination").text()
	if typ == "" {
		typ = DefaultMountType(v.get("source").text(), dest)
	}
	if typ == "" {
		c.add(v.line, field, "has no type:, such as tmpfs or bind")
	}
	if dest == "" && DefaultMountpoint(typ) == "" {
		c.add(v.line, field, "has no destination:, the path to mount at")
	}
}

// rlimits are the limits that runc knows: getrlimit(2).
var rlimits = []string{
	"AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE",
	"NICE", "NOFILE", "NPROC", "RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK",
}

// ParseRlimit reads NAME,SOFT,HARD.
func ParseRlimit(s string) (name string, soft, hard uint64, err error) {
	parts := strings.Split(s, ",")
	if len(parts) != 3 {
		return "", 0, 0, fmt.Errorf("is %q, must be NAME,SOFT,HARD such as nofile,1024,unlimited", s)
	}
	name = strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(parts[0])), "RLIMIT_")
	if !slices.Contains(rlimits, name) {
		return "", 0, 0, fmt.Errorf("unknown limit %q; known: %s", parts[0], strings.ToLower(strings.Join(rlimits, ", ")))
	}
	var limit [2]uint64
	for i, p := range parts[1:] {
		p = strings.TrimSpace(p)
		if strings.EqualFold(p, "unlimited") {
			limit[i] = ^uint64(0)
			continue
		}
		if limit[i], err = strconv.ParseUint(p, 10, 64); err != nil {
			return "", 0, 0, fmt.Errorf("limit %q must be a number or unlimited", p)
		}
	}
	if limit[0] > limit[1] {
		return "", 0, 0, fmt.Errorf("soft limit %s is above the hard limit %s", strings.TrimSpace(parts[1]), strings.TrimSpace(parts[2]))
	}
	return "RLIMIT_" + name, limit[0], limit[1], nil
}

func checkRlimit(c *checker, field string, v *value) {
	if _, _, _, err := ParseRlimit(v.text()); err != nil {
		c.add(v.line, field, "%v", err)
	}
}

// checkAnnotations hands our own keys to their parser; all others are the
// user's own business.
func checkAnnotations(c *checker, field string, v *value) {
	section := c.section
	if section == "" {
		section, _, _ = strings.Cut(field, "[")
	}
	annotations := map[string]string{}
	for _, e := range v.entries {
		if e.val.node != nil && e.val.node.Tag == "!!str" {
			annotations[e.key] = e.val.text()
		}
	}
	var problems []policy.Problem
	if section == "services" {
		_, problems = policy.ParseService(annotations)
	} else {
		_, problems = policy.ParseOneShot(section == "onshutdown", annotations)
	}
	for _, p := range problems {
		line := v.line
		for _, e := range v.entries {
			if e.key == p.Key {
				line = e.line
			}
		}
		c.add(line, join(field, p.Key), "%q: %s", p.Value, p.Want)
	}
}
