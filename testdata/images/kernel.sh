#!/bin/sh
# kernel.sh OUT CACHE MODULES [PACKAGE]: makes the folder OUT with the two files of a kernel image, `kernel` and
# `kernel.tar` (lib/modules/VERSION with the modules that the file MODULES names, what they depend on, and
# depmod's indexes), out of Debian's linux-image-cloud-amd64 or the package named. The same package gives the
# same bytes.
set -eu
out=$1 cache=$2 list=$3 meta=${4:-linux-image-cloud-amd64}
. "$(dirname "$0")/debian.sh"

need kmod

tree=$cache/kernel
[ "$meta" = linux-image-cloud-amd64 ] || tree=$cache/$meta
if [ ! -e "$tree/.done" ]; then
	rm -rf "$tree" && mkdir -p "$tree/deb"
	# An image that came through apt-get update: the lists may be missing on a fresh machine.
	package=$(depends "$meta" 2>/dev/null | grep '^linux-image-' | head -n 1) || true
	if [ -z "$package" ]; then
		apt_update
		package=$(depends "$meta" | grep '^linux-image-' | head -n 1) || true
	fi
	[ -n "$package" ] || die "Debian's $meta is not in this machine's package lists (is it amd64?)"
	say "downloading $package"
	fetch "$tree/deb" "$package"
	unpack "$tree" "$tree"/deb/*.deb
	rm -rf "$tree/deb"
	touch "$tree/.done"
fi
version=$(basename "$tree"/lib/modules/*)
source=$tree/lib/modules/$version
[ -e "$source/modules.dep" ] || PATH=$PATH:/usr/sbin:/sbin depmod -b "$tree" "$version"

rm -rf "$out" && mkdir -p "$out/tree/lib/modules/$version"
target=$out/tree/lib/modules/$version

# modules.dep has lines "path: path path": for each wanted name its own path and what follows the colon.
sed 's/#.*//' "$list" | tr -s ' \t' '\n\n' | sed '/^$/d' | sort -u >"$out/wanted"
awk -v dep="$source/modules.dep" -v builtin="$source/modules.builtin" '
	function name(path) { sub(/.*\//, "", path); sub(/\.ko.*/, "", path); gsub(/-/, "_", path); return path }
	BEGIN {
		while ((getline line < dep) > 0) {
			split(line, part, ":")
			path[name(part[1])] = part[1]
			needs[name(part[1])] = part[2]
		}
		while ((getline line < builtin) > 0) within[name(line)] = 1
	}
	{
		n = $1; gsub(/-/, "_", n)
		if (n in path) {
			print path[n]
			count = split(needs[n], more, " ")
			for (i = 1; i <= count; i++) print more[i]
		} else if (!(n in within)) {
			print "warning: this kernel has no module " $1 > "/dev/stderr"
		}
	}' "$out/wanted" | sort -u >"$out/files"

while read -r path; do
	mkdir -p "$target/$(dirname "$path")"
	cp "$source/$path" "$target/$path"
done <"$out/files"
cp "$source/modules.builtin" "$source/modules.builtin.modinfo" "$source/modules.order" "$target/"
PATH=$PATH:/usr/sbin:/sbin depmod -b "$out/tree" "$version"
# Indexes for programs that keelson's images do not have; the text ones are what is read, modules.devname among them:
# the device nodes whose first use loads their module.
rm -f "$target"/*.bin "$target/modules.order" "$target/modules.builtin.modinfo" "$target/modules.symbols"

tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w \
	-C "$out/tree" -cf "$out/kernel.tar" lib
cp "$tree/boot/vmlinuz-$version" "$out/kernel"
rm -rf "$out/tree" "$out/wanted" "$out/files"
modes "$out"
