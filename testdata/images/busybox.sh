#!/bin/sh
# busybox.sh OUT CACHE: makes the folder OUT with the root of keelson/busybox: Debian's static busybox, a
# link for each of its applets, the folders a root has, and the script that its DHCP client calls.
set -eu
out=$1 cache=$2
here=$(dirname "$0")
. "$here/debian.sh"

if [ ! -e "$cache/busybox/bin/busybox" ]; then
	rm -rf "$cache/busybox" && fetch "$cache/busybox/deb" busybox-static
	unpack "$cache/busybox" "$cache/busybox"/deb/*.deb
fi

rm -rf "$out"
for dir in bin dev etc/udhcpc proc root run sbin sys tmp usr/bin usr/sbin var/www; do mkdir -p "$out/$dir"; done
cp "$cache/busybox/bin/busybox" "$out/bin/busybox"
"$out/bin/busybox" --list-full | while read -r applet; do
	case $applet in
	linuxrc | bin/busybox) continue ;;
	esac
	mkdir -p "$out/$(dirname "$applet")"
	ln -sf /bin/busybox "$out/$applet"
done
# The programs of Debian's busybox that are not applets by path: DHCP looks for its script here.
cp "$here/udhcpc.script" "$out/etc/udhcpc/default.script"
echo 'root:x:0:0:root:/root:/bin/sh' >"$out/etc/passwd"
printf 'root:x:0:\ntty:x:5:\n' >"$out/etc/group"
# No password: what may log in is decided by what the image lets run a login.
echo 'root::19000:0:99999:7:::' >"$out/etc/shadow"
modes "$out"
chmod 0755 "$out/etc/udhcpc/default.script"
chmod 0640 "$out/etc/shadow"
chmod 0700 "$out/root"
chmod 1777 "$out/tmp"
