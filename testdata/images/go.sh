#!/bin/sh
# go.sh: prints the path of a Go tool that can build this tree, which it installs from Debian where Debian
# has one that will do. go.mod names the version; a Go from 1.21 on fetches that one by itself.
set -eu
. "$(dirname "$0")/debian.sh"

usable() {
	[ -x "$1" ] && (cd "$(dirname "$0")/../.." && "$1" version >/dev/null 2>&1)
}
for go in "$(command -v go || true)" /usr/local/go/bin/go /usr/lib/go/bin/go; do
	if [ -n "$go" ] && usable "$go"; then
		echo "$go"
		exit
	fi
done
wanted=$(sed -n 's/^go //p' "$(dirname "$0")/../../go.mod")
candidate=$(apt-cache policy golang-go 2>/dev/null | sed -n 's/^ *Candidate: [0-9]*:*\([0-9.]*\).*/\1/p')
if [ -n "$candidate" ] && dpkg --compare-versions "$candidate" ge 1.21; then
	need golang-go
	if usable /usr/bin/go; then
		echo /usr/bin/go
		exit
	fi
fi
die "Go $wanted or newer is needed and was not found (looked in PATH and /usr/local/go/bin; this Debian offers ${candidate:-none}).
Install it from https://go.dev/dl and run make again."
