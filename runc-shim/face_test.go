package main

import (
	"strings"
	"testing"
)

func TestFace(t *testing.T) {
	const fd = "/proc/self/fd/4"
	for _, c := range []struct {
		args string
		want faceKind
	}{
		{"runc", runcFace},
		{"containerd-shim-runc-v2", shimFace},
		{"/usr/bin/containerd-shim-runc-v2 -namespace x -address y -publish-binary z -id i start", shimFace},
		{fd + " -namespace x -id i -address a", shimFace},
		{fd + " --namespace=x", shimFace},
		{fd + " --root /run/x --log l --log-format json create --bundle b --pid-file p id", runcFace},
		{fd + " --debug --root /run/x state id", runcFace},
		{"containerd-shim-runc-v2 --root /run/x state id", runcFace},
		{"runc run --bundle b id", runcFace},
		{"runc -v", runcFace},
		{"containerd-shim-runc-v2 -v", shimFace},
		{"containerd-shim-runc-v2 -info", shimFace},
		{fd + " -info", shimFace},
		{fd + " -debug -namespace n", shimFace},
		{"runc exec -t id sh -namespace", runcFace},
	} {
		if got := face(strings.Fields(c.args)); got != c.want {
			t.Errorf("face(%s) = %v, want %v", c.args, got, c.want)
		}
	}
}
