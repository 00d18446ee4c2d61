package supervise

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// routeLog sends what packages log through slog to the console, under the
// container's name where they give one.
func (s *Supervisor) routeLog() { slog.SetDefault(slog.New(consoleHandler{s: s})) }

// consoleHandler is a slog.Handler that writes console lines.
type consoleHandler struct {
	s     *Supervisor
	attrs []slog.Attr
}

// Enabled lets everything through: the console has a level of its own, and what it
// does not show is in the log.
func (h consoleHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle writes one record as a line.
func (h consoleHandler) Handle(_ context.Context, r slog.Record) error {
	name := "keelson"
	var rest strings.Builder
	add := func(a slog.Attr) bool {
		if a.Key == "container" {
			name = a.Value.String()
		} else {
			fmt.Fprintf(&rest, " %s=%v", a.Key, a.Value)
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	say := h.s.con.Line
	switch {
	case r.Level >= slog.LevelError:
		say = h.s.con.Error
	case r.Level >= slog.LevelWarn:
		say = h.s.con.Warn
	case r.Level < slog.LevelInfo:
		say = h.s.con.Debug
	}
	say(name, "%s%s", r.Message, rest.String())
	return nil
}

// WithAttrs returns a handler that adds attributes to each record.
func (h consoleHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = append(append([]slog.Attr(nil), h.attrs...), attrs...)
	return h
}

// WithGroup keeps attributes flat: a console line has no room for groups.
func (h consoleHandler) WithGroup(string) slog.Handler { return h }
