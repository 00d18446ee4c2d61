#!/bin/sh
# run.sh MKIMAGE PREFIX HTTP REDIS: boots the example that was built as PREFIX-kernel, PREFIX-initrd.img and
# PREFIX-cmdline with its console on this terminal. A port that something else already listens on is
# replaced by the next free one, and the ports are said before the console begins.
set -eu
mkimage=$1 prefix=$2 http=$3 redis=$4

# listening PORT: does anything on this machine listen there? 0A is the kernel's number for LISTEN.
listening() {
	hex=$(printf ':%04X' "$1")
	cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v want="$hex" '$4 == "0A" && substr($2, length($2) - 4) == want { found = 1 } END { exit !found }'
}
free() {
	port=$1
	while listening "$port"; do port=$((port + 1)); done
	echo "$port"
}
http=$(free "$http")
redis=$(free "$redis")
[ "$redis" != "$http" ] || redis=$(free $((redis + 1)))

cat <<TEXT
A machine boots below. When it says "boot complete":
  web page    http://127.0.0.1:$http/
  redis       redis-cli -p $redis ping
In its console, press enter for a shell: try "ps", "kill -9 PID" of a service, and "poweroff".
TEXT
exec "$mkimage" run "$prefix" -p "$http:80" -p "$redis:6379" --memory 512
