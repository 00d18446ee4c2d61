package forward

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Word is the parameter of the kernel command line, which may be given any number
// of times and has a comma list of targets.
const Word = "keelson.log.forward="

// forms is what a target may look like, for messages.
const forms = "tcp://HOST[:PORT], udp://HOST[:PORT], unix:///PATH or virtio:NAME"

// syslogPort is the port of a target that names none.
const syslogPort = "514"

// maxTargets bounds how many there are: each is a reader of all logs.
const maxTargets = 8

// Target is where records go.
type Target struct {
	Kind    string // tcp, udp, unix, virtio; memlogd for an image's own
	Address string // host and port, path, or the port's name
}

// String is the target as it is written on the command line.
func (t Target) String() string {
	switch t.Kind {
	case kindVirtio, kindMemlogd:
		return t.Kind + ":" + t.Address
	}
	return t.Kind + "://" + t.Address
}

const (
	kindTCP     = "tcp"
	kindUDP     = "udp"
	kindUnix    = "unix"
	kindVirtio  = "virtio"
	kindMemlogd = "memlogd"
)

// Targets returns what a kernel command line asks for. Each error is about one
// target, which is left out.
func Targets(cmdline string) (targets []Target, wrong []error) {
	seen := map[Target]bool{}
	for _, word := range strings.Fields(cmdline) {
		list, ok := strings.CutPrefix(word, Word)
		if !ok {
			continue
		}
		for text := range strings.SplitSeq(list, ",") {
			t, err := parse(text)
			switch {
			case err != nil:
				wrong = append(wrong, fmt.Errorf("kernel command line: %s%s: %w: want %s", Word, text, err, forms))
			case seen[t]:
			case len(targets) == maxTargets:
				wrong = append(wrong, fmt.Errorf("kernel command line: %s%s: there are %d targets already, which is the most", Word, text, maxTargets))
			default:
				seen[t] = true
				targets = append(targets, t)
			}
		}
	}
	return targets, wrong
}

func parse(text string) (Target, error) {
	kind, rest, ok := strings.Cut(text, ":")
	if !ok {
		return Target{}, errors.New("it has no scheme")
	}
	switch kind {
	case kindTCP, kindUDP:
		address, ok := strings.CutPrefix(rest, "//")
		if !ok {
			return Target{}, fmt.Errorf("%s: is not followed by //", kind)
		}
		address, err := hostPort(strings.TrimSuffix(address, "/"))
		return Target{kind, address}, err
	case kindUnix:
		path, ok := strings.CutPrefix(rest, "//")
		if !ok || !strings.HasPrefix(path, "/") || len(path) > 107 {
			return Target{}, errors.New("it has no absolute path of at most 107 bytes")
		}
		return Target{kind, path}, nil
	case kindVirtio:
		name := strings.TrimPrefix(rest, "//")
		if name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
			return Target{}, errors.New("it has no name of a port")
		}
		return Target{kind, name}, nil
	}
	return Target{}, fmt.Errorf("%q is none of the schemes", kind)
}

// hostPort adds the port if there is none.
func hostPort(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil { // no port, or a bare IPv6 address
		host, port = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), syslogPort
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return "", errors.New("its host and port cannot be told apart")
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q is no port from 1 to 65535", port)
	}
	if host == "" || strings.ContainsAny(host, "/?#@") {
		return "", errors.New("it has no host")
	}
	return net.JoinHostPort(host, port), nil
}
