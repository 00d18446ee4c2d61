package task

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/mounts"
	"keelson/internal/safepath"
)

// startError is a failed start in one sentence. The runtime's own words, which come
// through four programs, are behind Unwrap.
type startError struct {
	text  string
	cause error
}

func (e *startError) Error() string { return e.text }
func (e *startError) Unwrap() error { return e.cause }

// explain makes a runtime's error one that a person can act on: what could not be
// done, why, and where that is said. What it does not know stays as it is.
func explain(b *bundle.Bundle, err error) error {
	if _, refused := errors.AsType[*safepath.LinkError](err); refused {
		return err // and what the link leads to, or not, is no reason
	}
	text := err.Error()
	if strings.Contains(text, "no space left on device") {
		for _, dir := range []string{"/run/containerd", "/run"} {
			var st unix.Statfs_t
			if unix.Statfs(dir, &st) == nil && st.Bavail == 0 {
				return fmt.Errorf("%s is full (%d MiB): %w", dir, st.Blocks*uint64(st.Bsize)>>20, err)
			}
		}
	}
	for _, reason := range []func(*bundle.Bundle, string) string{
		missingSource, missingNamespace, wrongCommand, wrongMount, wrongCwd, tooLittleMemory,
	} {
		if why := reason(b, text); why != "" {
			return &startError{why, err}
		}
	}
	return err
}

// isBind reports whether a mount binds a path of the machine.
func isBind(m specs.Mount) bool {
	return mounts.Entry{Source: m.Source, Target: m.Destination, Type: m.Type, Options: m.Options}.IsBind()
}

// place is where a container lies in the image, for the end of a sentence.
func place(b *bundle.Bundle) string { return string(b.Section) + "/" + b.Name }

// missingSource: the image's label or its YAML binds what the machine does not have.
func missingSource(b *bundle.Bundle, _ string) string {
	for _, m := range b.Spec.Mounts {
		if !isBind(m) || !filepath.IsAbs(m.Source) {
			continue
		}
		if _, err := os.Stat(m.Source); errors.Is(err, fs.ErrNotExist) {
			return fmt.Sprintf("bind %s: not in the machine's root (%s, from the image's label or its YAML)", m.Source, place(b))
		}
	}
	return ""
}

// missingNamespace: net: and the like name a namespace that nobody has kept.
func missingNamespace(b *bundle.Bundle, _ string) string {
	for _, n := range b.Spec.Linux.Namespaces {
		if n.Path == "" {
			continue
		}
		if _, err := os.Stat(n.Path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Sprintf("namespace %s (%s): there is none; a container that runs before keeps one there with runtime: bindNS (%s)", n.Path, n.Type, place(b))
		}
	}
	return ""
}

// notInImage reports whether a runtime's error says that there is no such program.
func notInImage(text string) bool {
	return strings.Contains(text, "executable file not found") || strings.Contains(text, "exec: ") && strings.Contains(text, "no such file")
}

// wrongCommand: the program is not in the image, or cannot be run.
func wrongCommand(b *bundle.Bundle, text string) string {
	command := fmt.Sprintf("%s: process.args: %q", filepath.Join(b.Dir, "config.json"), b.Spec.Process.Args[0])
	switch {
	case notInImage(text):
		return command + " is not in the image"
	case strings.Contains(text, "exec: ") && strings.Contains(text, "permission denied"):
		return command + " is not executable in the image"
	case strings.Contains(text, "exec: ") && strings.Contains(text, "is a directory"):
		return command + " is a directory of the image"
	}
	return ""
}

// mountFailed is how the runtime reports a mount that it could not make: its source
// and where it was to be.
var mountFailed = regexp.MustCompile(`error mounting "([^"]*)" to rootfs at "([^"]*)"`)

// wrongMount: what is mounted does not fit where it is mounted.
func wrongMount(b *bundle.Bundle, text string) string {
	found := mountFailed.FindStringSubmatch(text)
	if found == nil {
		return ""
	}
	source, target := found[1], found[2]
	for _, m := range b.Spec.Mounts {
		if m.Destination == target {
			source = m.Source // the runtime may have been given a pin of it
		}
	}
	what := fmt.Sprintf("mount %s on %s", source, target)
	why := ""
	switch {
	case strings.HasSuffix(text, "read-only file system"):
		why = "the image has no such place and is read-only: make it in the image, or leave out readonly: true"
	case strings.HasSuffix(text, "not a directory"):
		why = "one is a directory and the other is a file"
	case strings.HasSuffix(text, "no such device"):
		why = "the kernel has no such file system, and no module for it is in the image"
	case strings.HasSuffix(text, "no such file or directory"):
		why = "there is no " + source
	default:
		return ""
	}
	return fmt.Sprintf("%s: %s (%s)", what, why, place(b))
}

// wrongCwd: the runtime makes the directory that a command starts in, where it can.
func wrongCwd(b *bundle.Bundle, text string) string {
	if strings.Contains(text, "error during container init: mkdir ") && strings.HasSuffix(text, "read-only file system") {
		return fmt.Sprintf("cwd %s: not in the image, which is read-only (%s)", b.Spec.Process.Cwd, place(b))
	}
	return ""
}

// tooLittleMemory: the limit does not even leave room for the runtime's own first step.
func tooLittleMemory(b *bundle.Bundle, text string) string {
	r := b.Spec.Linux.Resources
	if r == nil || r.Memory == nil || r.Memory.Limit == nil {
		return ""
	}
	if strings.Contains(text, "OOM-killed") || strings.Contains(text, "device or resource busy") && strings.Contains(text, "memory.") {
		return fmt.Sprintf("resources.memory.limit of %d KiB is too little to start anything (%s)", *r.Memory.Limit>>10, place(b))
	}
	return ""
}
