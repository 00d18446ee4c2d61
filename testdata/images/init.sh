#!/bin/sh
# init.sh OUT BIN: makes the folder OUT with the root of keelson/init out of the binaries in BIN: all that an
# image YAML names in its `init:`, files as they lie under / and the empty folders that a root needs.
set -eu
out=$1 bin=$2
. "$(dirname "$0")/debian.sh"

rm -rf "$out"
for dir in bin containers dev etc home lib mnt opt proc root run sbin srv sys usr/bin usr/lib usr/sbin var; do
	mkdir -p "$out/$dir"
done
mkdir "$out/tmp"
cp "$bin/init" "$out/init"
cp "$bin/service" "$bin/containerd-shim-runc-v2" "$out/usr/bin/"
# One file, two programs: each looks at the name, or the arguments, it was called with.
ln -s service "$out/usr/bin/containerd"
ln -s containerd-shim-runc-v2 "$out/usr/bin/runc"
# Whoever learns the name servers writes them there: /etc is read-only in a running machine.
ln -s /run/resolvconf/resolv.conf "$out/etc/resolv.conf"
modes "$out"
chmod 1777 "$out/tmp"
chmod 0700 "$out/root"
