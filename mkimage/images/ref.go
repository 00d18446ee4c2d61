// Package images finds OCI images and keeps them: in a local store (an OCI
// image layout), in tarballs, in a registry.
//
// It owns names (what a short name stands for), the store's index and the blobs
// below it. It promises that the store is whole at any moment: blobs are
// renamed into place before the index names them, and the index is replaced at
// once, under a lock. It never runs anything and never needs root.
package images

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
)

// ArchivePrefix marks the name of an image that is a tarball or a directory.
const ArchivePrefix = "oci-archive:"

// Ref names an image: by its full name, or by the tarball or directory it is in.
type Ref struct {
	Name    string // fully qualified, such as docker.io/library/busybox:latest; empty for a path
	Archive string // path of a tarball or directory
}

// String returns the full name, or the path of the tarball.
func (r Ref) String() string {
	if r.Archive != "" {
		return ArchivePrefix + r.Archive
	}
	return r.Name
}

// ParseRef expands a name the way Docker and LinuxKit do: "redis" is
// docker.io/library/redis:latest. A name that begins with oci-archive:, /, ./
// or ../ is the path of a tarball or directory, relative to dir.
func ParseRef(s, dir string) (Ref, error) {
	file, ok := strings.CutPrefix(s, ArchivePrefix)
	if ok || strings.HasPrefix(s, "/") || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") {
		if file == "" {
			return Ref{}, fmt.Errorf("%q names no tarball; write oci-archive:PATH", s)
		}
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		return Ref{Archive: file}, nil
	}
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return Ref{}, fmt.Errorf("%q is no image name (%w); a name looks like nginx, you/app:1.2 or registry.example.com/you/app:1.2", s, err)
	}
	return Ref{Name: named.String()}, nil
}
