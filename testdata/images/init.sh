#!/bin/sh
# init.sh OUT BIN: makes the folder OUT with the root of keelson/init out of the binaries in BIN: all that an
# image YAML names in its `init:`, files as they lie under / and the empty folders that a root needs.
set -eu
out=$1 bin=$2
. "$(dirname "$0")/debian.sh"

rm -rf "$out"
# After the root's own folders, those that LinuxKit's init image has and that others bind: certificates of metadata,
# the key of dm-crypt, what sshd lets in, modules and firmware where no kernel image brings any.
for dir in bin containers dev etc home lib media mnt opt proc root run sbin srv sys usr/bin usr/lib usr/local usr/sbin var \
	etc/dm-crypt etc/init.d etc/modprobe.d etc/network etc/shutdown.d etc/ssl/certs etc/sysctl.d \
	lib/firmware lib/modules root/.ssh usr/local/bin usr/share; do
	mkdir -p "$out/$dir"
done
mkdir "$out/tmp"
cp "$bin/init" "$out/init"
cp "$bin/service" "$out/usr/bin/"
# A link, so that the supervisor sees whether another image has put a shim of its own in its place.
cp "$bin/containerd-shim-runc-v2" "$out/usr/bin/runc-shim"
ln -s runc-shim "$out/usr/bin/containerd-shim-runc-v2"
# One file, several programs: each looks at the name, or the arguments, it was called with.
ln -s service "$out/usr/bin/containerd"
# Containers bind these (LinuxKit's getty and sshd): they name the images that have the real ones, which take their place.
ln -s service "$out/usr/bin/ctr"
ln -s service "$out/usr/bin/runc"
# What a kernel starts from a root on a disk without init=, and what starts an image of LinuxKit's docker format.
ln -s /init "$out/sbin/init"
ln -s /init "$out/bin/rc.init"
# Whoever learns the name servers writes them there: /etc is read-only in a running machine.
ln -s /run/resolvconf/resolv.conf "$out/etc/resolv.conf"
# Containers bind these as they do on any machine.
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$out/etc/hosts"
printf 'ID=keelson\nNAME=keelson\nPRETTY_NAME="keelson (LinuxKit)"\n' >"$out/etc/os-release"
modes "$out"
chmod 1777 "$out/tmp"
chmod 0700 "$out/root" "$out/root/.ssh" "$out/etc/dm-crypt"
