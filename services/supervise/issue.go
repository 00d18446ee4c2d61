package supervise

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

// greeting is the banner of an image without /etc/issue. Scripts that boot
// LinuxKit images wait for its first three words.
const greeting = "Welcome to LinuxKit, run by keelson"

// banner says what /etc/issue says, on every console.
func (s *Supervisor) banner() {
	text, err := os.ReadFile("/etc/issue")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.con.Warn("issue", "%v", err)
	}
	for _, line := range issueLines(string(text)) {
		s.con.Line("issue", "%s", line)
	}
}

// issueLines returns what of an /etc/issue is shown. Escapes are getty's, which
// alone knows the line it is on: `\n`, `\l` and so on are left out.
func issueLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(withoutEscapes(line), " \t\r\n"); line != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return []string{greeting}
	}
	return lines
}

func withoutEscapes(line string) string {
	var b strings.Builder
	for i := 0; i < len(line); i++ {
		if line[i] != '\\' || i+1 == len(line) {
			b.WriteByte(line[i])
			continue
		}
		if i++; line[i] == '\\' {
			b.WriteByte('\\')
		}
	}
	return b.String()
}
