package control

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"keelson/internal/api"
)

// What the documentation shows is typed as it stands there, with curl: each answer is
// one of the protocol, with no field that it does not have, in the documentation either.
func TestTheExamplesOfTheDocumentation(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl to ask with")
	}
	doc, err := os.ReadFile("../../docs/control.md")
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, nil)
	w.hub.Publish(api.Event{Kind: "state", Service: "web", To: "ready"})
	lines := strings.Split(string(doc), "\n")
	examples := 0
	for i, line := range lines {
		command, ok := strings.CutPrefix(line, "# curl ")
		if !ok {
			continue
		}
		examples++
		command = curl + " -sS " + strings.ReplaceAll(command, api.Socket, w.socket)
		run := exec.CommandContext(t.Context(), "sh", "-c", "exec "+command)
		out, err := run.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		answer, _ := bufio.NewReader(out).ReadString('\n')
		_ = run.Process.Kill() // one that follows does not end
		_ = run.Wait()
		shown := []string{answer}
		if strings.HasPrefix(lines[i+1], "{") {
			shown = append(shown, lines[i+1])
		}
		for _, text := range shown {
			var v any = &api.Service{}
			switch {
			case strings.Contains(command, "/v1/machine"):
				v = &api.Machine{}
			case strings.Contains(command, "/v1/events"):
				v = &api.Event{}
			case strings.HasPrefix(text, `{"error"`):
				v = &api.Error{}
			}
			d := json.NewDecoder(strings.NewReader(text))
			d.DisallowUnknownFields()
			if err := d.Decode(v); err != nil {
				t.Errorf("%s: %q: %v", line, text, err)
			}
		}
	}
	if examples < 3 {
		t.Errorf("the documentation has %d examples", examples)
	}
}
