#!/bin/sh
# host.sh build|vm|tests...: sees to it that this machine has what building the tree, running virtual
# machines and testing needs. Says nothing and changes nothing where all is there.
set -eu
. "$(dirname "$0")/debian.sh"

[ "$(uname -m)" = x86_64 ] || die "the build makes linux/amd64 images and wants an amd64 machine; this one is $(uname -m)"
for what in "$@"; do
	case $what in
	build) need gcc libc6-dev pkgconf libseccomp-dev ;;
	vm) need qemu-system-x86 ;;
	# The firmware, the stub and the tools are for images that boot from disks; curl asks what the docs ask.
	tests) need ovmf systemd-boot-efi squashfs-tools e2fsprogs xorriso dosfstools fdisk qemu-utils curl ;;
	*) die "host.sh: no such part: $what" ;;
	esac
done
