package main

import (
	"path/filepath"
	"strings"
)

type faceKind int

const (
	runcFace faceKind = iota
	shimFace
)

// shimFlags are the flags of the shim protocol that runc does not have.
// `-debug` and `-v` are left out: runc has them as well.
var shimFlags = map[string]bool{
	"namespace":      true,
	"id":             true,
	"address":        true,
	"publish-binary": true,
	"socket":         true,
	"debug-socket":   true,
	"bundle":         true,
	"info":           true,
}

// face says which program args call for. A flag of the shim protocol before
// the first word that is no flag means the shim; a first word that is no flag
// means runc, unless the file was called by the shim's name.
func face(args []string) faceKind {
	named := runcFace
	if len(args) > 0 && strings.HasPrefix(filepath.Base(args[0]), "containerd-shim-") {
		named = shimFace
	}
	if len(args) < 2 {
		return named
	}
	for _, a := range args[1:] {
		if !strings.HasPrefix(a, "-") || a == "--" {
			break
		}
		name := strings.TrimLeft(a, "-")
		name, _, _ = strings.Cut(name, "=")
		if shimFlags[name] {
			return shimFace
		}
		if runcGlobals[name] {
			return runcFace
		}
	}
	return named
}

// runcGlobals are runc's global flags that the shim protocol does not have.
var runcGlobals = map[string]bool{
	"root":           true,
	"log":            true,
	"log-format":     true,
	"rootless":       true,
	"systemd-cgroup": true,
	"criu":           true,
}
