package console

import (
	"fmt"
	"strings"
)

// Level is how much a console shows.
type Level int8

// The levels there are.
const (
	Debug Level = iota - 1 // what a developer of the machine's own parts wants, too
	Info                   // every event, and the output of containers that show it
	Warn                   // warnings and errors, with the last output of what failed
)

// Priorities of lines, as in syslog.
const (
	priorityError   = 3
	priorityWarning = 4
	priorityInfo    = 6
	priorityDebug   = 7
)

// levelWord is the parameter of the kernel command line.
const levelWord = "keelson.log="

// LevelOf returns the level that a kernel command line asks for; the last of
// several words counts. An error says what is wrong with a word; Info is in force
// then, or what an earlier word asks for.
func LevelOf(cmdline string) (Level, error) {
	level, wrong := Info, error(nil)
	for _, word := range strings.Fields(cmdline) {
		v, ok := strings.CutPrefix(word, levelWord)
		if !ok {
			continue
		}
		switch v {
		case "debug":
			level = Debug
		case "info":
			level = Info
		case "warn":
			level = Warn
		default:
			wrong = fmt.Errorf("kernel command line: %s is none of keelson.log=debug, keelson.log=info, keelson.log=warn", word)
		}
	}
	return level, wrong
}
