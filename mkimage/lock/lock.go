// Package lock records the digests of a build's images in a file, and refuses an
// image that has become another one.
//
//   - The file is text for people and for version control: a line for each image, its
//     name and its digest, sorted.
//   - An image without a line is recorded. A line is changed by nobody but a person,
//     who removes it; lines of images that this build does not use stay, as several
//     YAMLs may share a file.
package lock

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"keelson/mkimage/scratch"
)

const header = "# Digests of images, recorded by mkimage build --lock. To accept another one, remove its line and build.\n"

// Lock is what a file records.
type Lock struct {
	file    string
	digests map[string]string // by the image's name
	added   []string
}

var digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Open reads a lock file; one that is not there records nothing yet.
func Open(file string) (*Lock, error) {
	l := &Lock{file: file, digests: map[string]string{}}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--lock: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word := strings.Fields(line)
		if len(word) != 2 || !digest.MatchString(word[1]) {
			return nil, fmt.Errorf("--lock: %s:%d: %q must be the name of an image and its digest, sha256 and its number", file, n, line)
		}
		if have, twice := l.digests[word[0]]; twice && have != word[1] {
			return nil, fmt.Errorf("--lock: %s:%d: %s is there with another digest already; remove one of the lines", file, n, word[0])
		}
		l.digests[word[0]] = word[1]
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("--lock: %s: %w", file, err)
	}
	return l, nil
}

// Check compares an image with what is recorded of it, or notes it.
func (l *Lock) Check(name, is string) error {
	name = strings.Join(strings.Fields(name), "%20") // a path may have spaces
	have, ok := l.digests[name]
	if !ok {
		l.digests[name] = is
		l.added = append(l.added, name)
		return nil
	}
	if have != is {
		return fmt.Errorf("image %s is %s, but %s has %s; to accept what it is now, remove its line there and build again", name, is, l.file, have)
	}
	return nil
}

// Added returns the images that were not recorded before.
func (l *Lock) Added() []string { return slices.Sorted(slices.Values(l.added)) }

// Save writes the file, whole or not at all, if there is anything new in it.
func (l *Lock) Save() error {
	if len(l.added) == 0 {
		return nil
	}
	text := header
	for _, name := range slices.Sorted(maps.Keys(l.digests)) {
		text += name + " " + l.digests[name] + "\n"
	}
	if err := scratch.Replace(l.file, []byte(text)); err != nil {
		return fmt.Errorf("--lock: %w", err)
	}
	return nil
}
