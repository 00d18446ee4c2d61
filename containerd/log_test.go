package containerd

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

func TestLogLines(t *testing.T) {
	level, out0, format := log.L.Logger.GetLevel(), log.L.Logger.Out, log.L.Logger.Formatter
	defer func() {
		log.L.Logger.SetLevel(level)
		log.L.Logger.SetOutput(out0)
		log.L.Logger.SetFormatter(format)
	}()
	var out strings.Builder
	must(t, setUpLog(&out, Debug{Level: "warn", Format: "text"}))
	log.L.Info("not shown")
	log.L.WithField("id", "web").WithField("a", "two words").Warn("first\nsecond")
	log.L.WithError(errors.New("broken")).Error("it failed")
	log.L.WithError(errors.New("rpc error: code = NotFound desc = container not created: not found")).Error("failed to delete task")
	log.L.WithError(errors.New("timed out")).Error("failed to delete task")
	log.L.WithField("stream", 5).Error("ttrpc: received message on inactive stream")
	want := `warning: first; second a="two words" id=web
ERROR: it failed error=broken
ERROR: failed to delete task error="timed out"
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}

	out.Reset()
	log.L.Logger.SetLevel(logrus.DebugLevel)
	log.L.WithError(errors.New("container not created: not found")).Error("failed to delete task")
	if want := "debug: failed to delete task error=\"container not created: not found\"\n"; out.String() != want {
		t.Errorf("at debug level got %q, want %q", out.String(), want)
	}

	out.Reset()
	log.L.WithField("stream", 5).Error("ttrpc: received message on inactive stream")
	if want := "debug: ttrpc: received message on inactive stream stream=5\n"; out.String() != want {
		t.Errorf("at debug level got %q, want %q", out.String(), want)
	}

	if err := setUpLog(&out, Debug{Level: "loud", Format: "text"}); err == nil || !strings.Contains(err.Error(), `"loud"`) {
		t.Errorf("level loud: %v", err)
	}
	if err := setUpLog(&out, Debug{Level: "warn", Format: "xml"}); err == nil || !strings.Contains(err.Error(), `"xml"`) {
		t.Errorf("format xml: %v", err)
	}
}
