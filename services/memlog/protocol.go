package memlog

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"keelson/services/logs"
)

// maxName is the most bytes of a source's name in a message.
const maxName = 512

// What a client of the query socket asks for, in one byte.
const (
	dump          = 0
	follow        = 1
	dumpAndFollow = 2
)

// outSuffix tells a source's standard output from its standard error, which has
// the bare name.
const outSuffix = ".out"

// unnamed is the source of what came without a name.
const unnamed = "unnamed"

// source reads a message: the name under which a client hands an open file over.
// What a name could do to a terminal or as the name of a file is taken out of it.
func source(message []byte) (name string, stream logs.Stream, err error) {
	if len(message) > maxName {
		return "", "", fmt.Errorf("its name has more than %d bytes", maxName)
	}
	text := strings.TrimRight(string(message), "\x00\n")
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if r == utf8.RuneError && n == 1 || r == '/' || !unicode.IsPrint(r) {
			r = '_'
		}
		b.WriteRune(r)
		text = text[n:]
	}
	name, stream = b.String(), logs.Stderr
	if base, ok := strings.CutSuffix(name, outSuffix); ok {
		name, stream = base, logs.Stdout
	}
	switch {
	case name == "":
		name = unnamed
	case strings.HasPrefix(name, "."):
		name = "memlogd." + strings.TrimLeft(name, ".")
	}
	return name, stream, nil
}

// sourceName is the name that LinuxKit gives a stream of a source.
func sourceName(r logs.Record) string {
	if r.Stream == logs.Stdout {
		return r.Source + outSuffix
	}
	return r.Source
}
