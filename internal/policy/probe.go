package policy

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ProbeKind is a way to find out how a service is.
type ProbeKind string

// The kinds of probes.
const (
	ProbeNone    ProbeKind = ""        // nothing is looked at
	ProbeStarted ProbeKind = "started" // its first process runs
	ProbeNotify  ProbeKind = "notify"  // it says so itself: sd_notify(3)
	ProbeTCP     ProbeKind = "tcp"     // a port of its network namespace takes a connection
	ProbeHTTP    ProbeKind = "http"    // a GET there is answered with 200 to 399
	ProbeExec    ProbeKind = "exec"    // a command in the container ends with 0
	ProbeFile    ProbeKind = "file"    // a path in the container exists
	ProbeLog     ProbeKind = "log"     // a line of its output matches
)

// ErrUnknown says that a probe has found nothing out: it did not come to run, or nobody
// reported what came of it.
var ErrUnknown = errors.New("not known")

// Probe is one way to find out how a service is.
type Probe struct {
	Kind    ProbeKind
	Port    int            // of ProbeTCP and ProbeHTTP
	Path    string         // of ProbeHTTP, with the query; of ProbeFile, absolute
	Argv    []string       // of ProbeExec
	Pattern *regexp.Regexp // of ProbeLog

	text string
}

// String returns the probe as it was written; "" for none.
func (p Probe) String() string {
	if p.text == "" {
		return string(p.Kind)
	}
	return p.text
}

const (
	wantReady  = "started, notify, tcp:PORT, http:PORT/path, exec:COMMAND, file:/path or log:REGEXP"
	wantHealth = "none, notify, tcp:PORT, http:PORT/path or exec:COMMAND"
)

func setProbe(into *Probe, value string, allowed ...ProbeKind) bool {
	word, rest, colon := strings.Cut(value, ":")
	p := Probe{Kind: ProbeKind(word), text: value}
	if value == "none" {
		p = Probe{}
	}
	if word == "" || !slices.Contains(allowed, p.Kind) {
		return false
	}
	switch p.Kind {
	case ProbeNone, ProbeStarted, ProbeNotify:
		if colon {
			return false
		}
	case ProbeTCP:
		if !setPort(&p.Port, rest) {
			return false
		}
	case ProbeHTTP:
		port, path, slash := strings.Cut(rest, "/")
		if !setPort(&p.Port, port) || slash && strings.ContainsAny(path, " \t\r\n") {
			return false
		}
		p.Path = "/" + path
	case ProbeExec:
		argv, ok := splitWords(rest)
		if !ok || len(argv) == 0 {
			return false
		}
		p.Argv = argv
	case ProbeFile:
		if !strings.HasPrefix(rest, "/") || rest == "/" {
			return false
		}
		p.Path = rest
	case ProbeLog:
		re, err := regexp.Compile(rest)
		if err != nil || rest == "" {
			return false
		}
		p.Pattern = re
	}
	*into = p
	return true
}

func setPort(into *int, value string) bool {
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil || n == 0 {
		return false
	}
	*into = int(n)
	return true
}

// splitWords splits a command into its words, as a shell does: at blanks, but
// not within quotes or after a backslash. Nothing is expanded.
func splitWords(s string) (words []string, ok bool) {
	var word strings.Builder
	var quote rune
	within, escaped := false, false
	for _, r := range s {
		switch {
		case escaped:
			if quote == '"' && r != '"' && r != '\\' && r != '$' && r != '`' {
				word.WriteByte('\\')
			}
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, within = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, within = r, true
		case strings.ContainsRune(" \t\n", r):
			if within {
				words = append(words, word.String())
				word.Reset()
				within = false
			}
		default:
			word.WriteRune(r)
			within = true
		}
	}
	if within {
		words = append(words, word.String())
	}
	return words, quote == 0 && !escaped
}
