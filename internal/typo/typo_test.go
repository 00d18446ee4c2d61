package typo

import "testing"

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"restart", "restart", 0},
		{"restart", "restrat", 1}, {"kelson", "keelson", 1}, {"keelsonn", "keelson", 1}, {"health", "heelth", 1},
		{"stop", "start", 3}, {"ca", "abc", 3},
	} {
		if got := Distance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := Distance(c.b, c.a); got != c.want {
			t.Errorf("%q, %q: %d, want %d", c.b, c.a, got, c.want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"start", "stop", "status", "Restart"}
	for _, c := range []struct {
		word  string
		slips int
		want  string
	}{
		{"strat", 2, "start"}, {"STOP", 0, "stop"}, {"restart", 0, "Restart"}, {"statsu", 1, "status"}, {"stap", 1, "stop"},
		{"stop", 3, "stop"}, {"xy", 9, ""}, {"", 9, ""}, {"logs", 2, ""},
	} {
		if got := Nearest(c.word, known, c.slips); got != c.want {
			t.Errorf("%q, %d slips: %q, want %q", c.word, c.slips, got, c.want)
		}
	}
	if got := Nearest("stop", nil, 3); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}
