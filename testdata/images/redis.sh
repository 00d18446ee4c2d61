#!/bin/sh
# redis.sh OUT CACHE: makes the folder OUT with the root of keelson/redis: redis-server and redis-cli from
# Debian's redis packages with exactly the shared libraries that they load.
set -eu
out=$1 cache=$2
. "$(dirname "$0")/debian.sh"

tree=$cache/redis
if [ ! -e "$tree/.done" ]; then
	rm -rf "$tree" && fetch "$tree/deb" redis-server redis-tools
	# The libraries' packages, breadth first; programs that maintainer scripts want are of no use here.
	wanted='redis-tools redis-server' seen=' '
	while [ -n "$wanted" ]; do
		more=
		for package in $wanted; do
			for dep in $(depends "$package"); do
				case $dep in lib*perl* | libpam*) continue ;; lib*) ;; *) continue ;; esac
				case $seen in *" $dep "*) continue ;; esac
				seen="$seen$dep "
				more="$more $dep"
			done
		done
		wanted=$more
	done
	# shellcheck disable=SC2086
	fetch "$tree/deb" $seen
	unpack "$tree" "$tree"/deb/*.deb
	rm -rf "$tree/deb"
	touch "$tree/.done"
fi

rm -rf "$out"
for dir in dev etc lib64 proc run sys tmp usr/bin usr/lib var/lib/redis; do mkdir -p "$out/$dir"; done
path=$tree/lib/x86_64-linux-gnu:$tree/usr/lib/x86_64-linux-gnu
loader=$tree/lib64/ld-linux-x86-64.so.2
[ -e "$loader" ] || loader=$tree/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
[ -e "$loader" ] || loader=$tree/usr/lib64/ld-linux-x86-64.so.2
for program in redis-server redis-cli; do
	cp -L "$tree/usr/bin/$program" "$out/usr/bin/$program"
	"$loader" --library-path "$path" --list "$tree/usr/bin/$program" | awk '$2 == "=>" { print $1, $3 }'
done | sort -u | while read -r name file; do
	case $name in
	/*) continue ;; # the loader itself
	esac
	[ -e "$file" ] || die "redis wants $name, which none of the packages has"
	cp -L "$file" "$out/usr/lib/$name"
done
cp -L "$loader" "$out/lib64/ld-linux-x86-64.so.2"
ln -s usr/lib "$out/lib"
echo 'root:x:0:0:root:/:/bin/false' >"$out/etc/passwd"
modes "$out"
chmod 1777 "$out/tmp"
"$out/lib64/ld-linux-x86-64.so.2" --library-path "$out/usr/lib" "$out/usr/bin/redis-server" --version >/dev/null ||
	die "the redis that was put together does not run"
