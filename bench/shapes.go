package main

import (
	"fmt"
	"strings"
)

// probeShell is where the measuring boots have a busybox of their own in the machine's root. Its size is taken
// off the memory that is measured; the boots whose time is measured have none.
const probeShell = "bench/busybox"

// shape returns the image YAML of shape mN: two one-shots that print a line, and so many services, of which the
// first is an httpd; the even ones can write to their root and the odd ones cannot.
// More is what comes behind: another service, or another section.
func shape(services int, more string) string {
	var yaml strings.Builder
	yaml.WriteString(`kernel: {image: keelson/kernel-lean, cmdline: "console=ttyS0 quiet"}
init: [keelson/init]
onboot:
  # The kernel's own line for the moment it starts /init, with its time.
  - name: one
    image: keelson/busybox
    command: ["sh", "-c", "dmesg | grep 'Run /init'"]
    capabilities: [CAP_SYSLOG]
  - name: two
    image: keelson/busybox
    command: ["echo", "the second one-shot"]
`)
	if services > 0 || strings.HasPrefix(more, " ") {
		yaml.WriteString("services:\n")
	}
	for i := range services {
		command := `["sleep", "1000000"]`
		if i == 0 {
			command = `["httpd", "-f", "-p", "8080"]`
		}
		fmt.Fprintf(&yaml, "  - {name: service%02d, image: keelson/busybox, readonly: %v, command: %s}\n", i, i%2 == 1, command)
	}
	yaml.WriteString(more)
	return yaml.String()
}

// talking is shape m20 after each service has written 5 MB of text, for which it has two minutes: more than its ring and
// its files have room for.
func talking() string {
	return strings.NewReplacer(
		`["sleep", "1000000"]`, `["sh", "-c", "seq 1 700000; exec sleep 1000000"]`,
		`["httpd", "-f", "-p", "8080"]`, `["sh", "-c", "seq 1 700000; exec httpd -f -p 8080"]`,
	).Replace(shape(20, probe(strings.Replace(memoryScript, "sleep 20", "sleep 120", 1))))
}

// probe is put into a root with a script for /etc/init.d that goes on in the background; see busyboxScript.
func probe(script string) string {
	var yaml strings.Builder
	fmt.Fprintf(&yaml, "files:\n  - {path: %s, source: ../images/busybox/bin/busybox, mode: \"0755\"}\n", probeShell)
	yaml.WriteString("  - path: etc/init.d/900-bench\n    mode: \"0755\"\n    contents: |\n")
	for line := range strings.Lines("#!/" + probeShell + " sh\n" + script) {
		yaml.WriteString("      " + line)
	}
	return yaml.String()
}

// memoryProbe is the part of a script that drops what is cached and prints what is in use.
const memoryProbe = `
		$b sync
		echo 3 >/proc/sys/vm/drop_caches
		$b sleep 1
		while read name value unit; do
			case $name in MemTotal: | MemFree: | MemAvailable:) echo "bench: $name $value" ;; esac
		done </proc/meminfo >/dev/console
		n=0
		while read name value; do
			case $name in count:) n=$((n + value)) ;; esac
		done </proc/zoneinfo
		echo "bench: percpu: $n" >/dev/console
`

// A script of the probe prints its findings to the console in lines that begin with "bench:".
const (
	// memoryScript: 15 s after the boot (which is over before the 20th second), with nothing cached that could
	// be dropped, what is in use; then a minute of idleness.
	memoryScript = `(
		b=/bench/busybox
		$b sleep 20` + memoryProbe + `		$b df -k /run/keelson/log | while read name size used rest; do
			case $used in [0-9]*) echo "bench: ring: $used" ;; esac
		done >/dev/console
		$b du -sk /var/log | while read used rest; do echo "bench: files: $used"; done >/dev/console
		look() {
			while read name a b c d e f g h rest; do
				case $name in
				cpu) echo "bench: busy-$1: $((a + b + c + f + g + h))" ;;
				ctxt) echo "bench: switches-$1: $a" ;;
				esac
			done </proc/stat >/dev/console
		}
		look before
		$b sleep 100
		look after
		echo "bench: end" >/dev/console
		) &
`
	// offsetScript: what to take off a time of the kernel's log to have the time since boot that the console
	// shows. It waits for the next hundredth of a second and writes it to the log at once, some times, because it
	// may be held up between the two.
	offsetScript = `(
		/bench/busybox sleep 10
		for i in 1 2 3 4 5 6 7 8 9 10; do
			read now rest </proc/uptime
			then=$now
			while [ $then = $now ]; do read now rest </proc/uptime; done
			echo "<1>bench: uptime $now" >/dev/kmsg
		done
		echo "bench: end" >/dev/console
		) &
`
)

// victim is a service that kills itself once it has been healthy for long enough to be restarted at once, and
// writes both moments to the kernel's log.
const victim = `  - name: victim
    image: keelson/busybox
    command: ["sh", "-c", "echo '<1>bench: victim runs' >/dev/kmsg; sleep 12; echo '<1>bench: victim dies' >/dev/kmsg; kill -9 $$"]
    pid: host
    binds: ["/dev/kmsg:/dev/kmsg"]
    devices: [{path: all, type: c}]
`

// switchOff is a service that asks PID 1 to switch the machine off.
const switchOff = `  - name: switch-off
    image: keelson/busybox
    command: ["sh", "-c", "sleep 12; echo '<1>bench: off' >/dev/kmsg; poweroff; exec sleep 1000000"]
    pid: host
    capabilities: [CAP_KILL]
    binds: ["/dev/kmsg:/dev/kmsg"]
    devices: [{path: all, type: c}]
`
