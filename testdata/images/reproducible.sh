#!/bin/sh
# reproducible.sh BUILD GO [FULL]: builds a copy of this tree elsewhere and compares what comes of it with what is in
# the folder BUILD, byte for byte: the init as an image, and a demo in several formats. The copy is in a folder with
# another name, is no clone of the same history, and is built with another umask, home, time zone and language. It uses
# the Debian packages in BUILD/cache and, unless FULL is given, what the Go tool has compiled already: linking, and all
# that is not Go, is done anew.
set -eu
cd "$(dirname "$0")/../.."
build=$1 go=$2 full=${3:-}
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT INT TERM
copy=$work/another/folder/with/a/longer/name
mkdir -p "$copy" "$work/home"

top=$PWD
cache=$("$go" env GOCACHE) modules=$("$go" env GOMODCACHE)
[ -z "$full" ] || cache=$work/go
(
	umask 077
	tar --exclude=./build --exclude=./.git -cf - . | tar -C "$copy" --no-same-permissions --no-same-owner -xf -
	cd "$copy"
	if command -v git >/dev/null; then
		git -c init.defaultBranch=other init -q .
		git add -A && git -c user.name=other -c user.email=other@example.com commit -q -m other
	fi
	env -i PATH="$PATH" HOME="$work/home" TZ=Pacific/Chatham LANG=tr_TR.UTF-8 GOCACHE="$cache" GOMODCACHE="$modules" \
		GOFLAGS=-mod=mod GOAMD64=v2 make -s CACHE="$top/$build/cache" image build/demo/minimal-initrd.img >make.log 2>&1 ||
		{ cat make.log; exit 1; }
)
same=yes
compare() {
	if cmp "$1/$3" "$2/$3"; then
		echo "the same from two folders: $(sha256sum <"$1/$3" | cut -c 1-16) $3"
	else
		same=no
	fi
}
for output in keelson.tar demo/minimal-kernel demo/minimal-initrd.img demo/minimal-cmdline; do
	compare "$build" "$copy/build" $output
done
for format in raw-efi kernel+ext4; do
	"$build/bin/mkimage" build -q --store "$build/store" --format $format -o "$work/one" testdata/minimal.yml >/dev/null
	"$copy/build/bin/mkimage" build -q --store "$copy/build/store" --format $format -o "$work/two" "$copy/testdata/minimal.yml" >/dev/null
done
compare "$work/one" "$work/two" minimal-efi.img
compare "$work/one" "$work/two" minimal-ext4.img
[ $same = yes ] && exit
# What of it, for who has to find out why.
list() (
	cd "$1"
	find bin images -printf '%p %y %m %l\n' | sort
	find bin images -type f -exec sha256sum {} + | sort -k 2
)
list "$build" >"$work/here"
list "$copy/build" >"$work/there"
diff "$work/here" "$work/there" | grep "^>"
exit 1
