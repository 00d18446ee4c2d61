package containerd

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/grpclog"
)

// setUpLog sends the daemon's log to w. Whoever started the daemon gives the
// lines their time and name, so a line of text is the message alone.
func setUpLog(w io.Writer, d Debug) error {
	level, err := logrus.ParseLevel(d.Level)
	if err != nil {
		return fmt.Errorf("log level: is %q, want trace, debug, info, warn, error, fatal or panic", d.Level)
	}
	log.L.Logger.SetLevel(level)
	log.L.Logger.SetOutput(w)
	switch d.Format {
	case "text":
		log.L.Logger.SetFormatter(lineFormat{})
	case "json":
		if err := log.SetFormat(log.JSONFormat); err != nil {
			return err
		}
	default:
		return fmt.Errorf("debug.format: is %q, want text or json", d.Format)
	}
	// gRPC reports every client that hangs up; the daemon's own log says what matters.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	return nil
}

// lineFormat writes one line per entry: severity where it is worth a word,
// message, then the fields in order of their names.
type lineFormat struct{}

func (lineFormat) Format(e *logrus.Entry) ([]byte, error) {
	var b bytes.Buffer
	switch {
	case aftermath(e):
		if !e.Logger.IsLevelEnabled(logrus.DebugLevel) {
			return nil, nil
		}
		b.WriteString("debug: ")
	case e.Level <= logrus.ErrorLevel:
		b.WriteString("ERROR: ")
	case e.Level == logrus.WarnLevel:
		b.WriteString("warning: ")
	case e.Level >= logrus.DebugLevel:
		b.WriteString("debug: ")
	}
	b.WriteString(oneLine(e.Message))
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		value := oneLine(fmt.Sprint(e.Data[key]))
		if value == "" || strings.ContainsAny(value, ` "=`) {
			value = strconv.Quote(value)
		}
		fmt.Fprintf(&b, " %s=%s", key, value)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// aftermath is whether an entry only reports what follows from something that
// somebody has been told of, or has wished for.
//
// After a task whose creation failed there is no task to delete and no pid to read;
// the client has been told why it failed. When a client gives up a request, such as
// the wait for the end of a process, or goes away, ttrpc has no word to withdraw it:
// the shim answers all the same, on a stream where nobody waits any more.
func aftermath(e *logrus.Entry) bool {
	for _, known := range []struct{ message, field, part string }{
		{"failed to delete task", logrus.ErrorKey, "not created: not found"},
		{"warnings while cleaning up dead shim", "warnings", "failed to read init pid file"},
		{"copy shim log", logrus.ErrorKey, "file already closed"},
		{"ttrpc: received message on inactive stream", "stream", ""},
	} {
		if e.Message == known.message && strings.Contains(fmt.Sprint(e.Data[known.field]), known.part) {
			return true
		}
	}
	return false
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
