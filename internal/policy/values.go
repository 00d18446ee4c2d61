package policy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/harden"
)

func choose[T ~string](into *T, value string, allowed ...T) bool {
	if !slices.Contains(allowed, T(value)) {
		return false
	}
	*into = T(value)
	return true
}

func setDuration(into *time.Duration, value string) bool {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		return false
	}
	*into = d
	return true
}

func setBool(into *bool, value string) bool {
	if value != "true" && value != "false" {
		return false
	}
	*into = value == "true"
	return true
}

// setPositive is setDuration without 0.
func setPositive(into *time.Duration, value string) bool {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return false
	}
	*into = d
	return true
}

func setCount(into *int, value string) bool {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		return false
	}
	*into = n
	return true
}

func setDrop(into *bool, value string) bool {
	if value != "block" && value != "drop" {
		return false
	}
	*into = value == "drop"
	return true
}

func setHarden(into *harden.Level, value string) bool {
	return choose(into, value, harden.Auto, harden.LinuxKit, harden.Strict)
}

func setSeccompLog(into *bool, value string) bool {
	if value != "refuse" && value != "log" {
		return false
	}
	*into = value == "log"
	return true
}

// setNames takes a list with commas, without repeats; an empty one is none.
func setNames(into *[]string, value string) bool {
	var names []string
	for name := range strings.SplitSeq(value, ",") {
		name = strings.TrimSpace(name)
		if name == "" || strings.ContainsAny(name, " \t/") {
			return false
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	*into = names
	return true
}

// setSignal takes SIGTERM, TERM, term, 15, RTMIN+3 and RTMAX-2.
func setSignal(into *unix.Signal, value string) bool {
	const rtmin, rtmax = 34, 64 // as glibc and musl have it
	if n, err := strconv.Atoi(value); err == nil {
		if n < 1 || n > rtmax {
			return false
		}
		*into = unix.Signal(n)
		return true
	}
	name := strings.TrimPrefix(strings.ToUpper(value), "SIG")
	for _, rt := range []struct {
		name string
		base int
	}{{"RTMIN", rtmin}, {"RTMAX", rtmax}} {
		rest, ok := strings.CutPrefix(name, rt.name)
		if !ok {
			continue
		}
		n := 0
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(rest); err != nil {
				return false
			}
		}
		if sig := rt.base + n; sig >= rtmin && sig <= rtmax {
			*into = unix.Signal(sig)
			return true
		}
		return false
	}
	sig := unix.SignalNum("SIG" + name)
	if sig == 0 {
		return false
	}
	*into = sig
	return true
}

func setControl(c *Control, v string) bool { return choose(c, v, ControlNone, ControlRead, ControlAll) }
