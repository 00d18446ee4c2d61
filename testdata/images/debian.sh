# Sourced by the scripts beside it and by the Makefile's set-up: everything that is asked of Debian.
# It promises to leave the machine alone when nothing is missing, and to say in plain words what is
# missing when it cannot get it. It never starts a service on the machine: what goes into an image
# is taken out of the package file and not installed.

# The same on every machine: what sorts, and the modes of what is made.
export LC_ALL=C
umask 022

# modes DIR: the modes of files as they come out of a fresh checkout, whatever the folder they are in hands down.
modes() { chmod -R u=rwX,go=rX,ug-s "$1"; }

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# as_root runs a command as root: directly, or through sudo.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "this needs root: run make as root, or install sudo (wanted: $*)"
	fi
}

need_apt() {
	command -v apt-get >/dev/null ||
		die "this machine has no apt-get; the build takes its parts from Debian packages. Missing: $*"
}

apt_update() {
	say "apt-get update (asked once, because a package was not found)"
	as_root apt-get -qq update || die "apt-get update failed: is there a network?"
}

# installed PACKAGE: is it on this machine?
installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }

# need PACKAGE...: installs those that are missing.
need() {
	missing=
	for p in "$@"; do installed "$p" || missing="$missing $p"; done
	[ -z "$missing" ] && return
	need_apt "$missing"
	say "installing$missing"
	# shellcheck disable=SC2086
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null 2>&1 && return
	apt_update
	# shellcheck disable=SC2086
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null ||
		die "could not install$missing"
}

# fetch DIR PACKAGE...: puts the package files into DIR, without installing anything.
fetch() {
	dir=$1; shift
	mkdir -p "$dir"
	need_apt "$*"
	(cd "$dir" && apt-get -qq download "$@" >/dev/null 2>&1) && return
	apt_update
	(cd "$dir" && apt-get -qq download "$@" >/dev/null) || die "could not download $*"
}

# depends PACKAGE: the names of the packages it depends on directly, one a line.
depends() {
	apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$1" |
		awk '$1 == "Depends:" && $2 !~ /^</ { print $2 }'
}

# unpack DIR FILE.deb...: lays the packages' files out under DIR.
unpack() {
	dir=$1; shift
	mkdir -p "$dir"
	for deb in "$@"; do dpkg-deb -x "$deb" "$dir"; done
}
