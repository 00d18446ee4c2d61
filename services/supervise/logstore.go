package supervise

import (
	"time"

	"keelson/internal/console"
	"keelson/services/logs"
)

// openLogs makes the store of the machine's logs.
func (s *Supervisor) openLogs() {
	s.logs = logs.New(logs.Config{Now: console.Now, Wall: time.Now})
}
