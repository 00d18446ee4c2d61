package control

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"time"

	"keelson/internal/api"
)

// quiet is a log of nothing: what a client does wrong is the client's to be told.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// answer writes v as JSON.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // to a client that has gone
}

func fail(w http.ResponseWriter, status int, text, want string) {
	answer(w, status, api.Error{Error: text, Want: want})
}

// bounded is a ResponseWriter whose client has to take what is written within a
// bound, or is dropped.
type bounded struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
}

func newBounded(w http.ResponseWriter, stall time.Duration) *bounded {
	return &bounded{w, http.NewResponseController(w), stall}
}

// Write passes p on.
func (b *bounded) Write(p []byte) (int, error) {
	if err := b.control.SetWriteDeadline(time.Now().Add(b.stall)); err != nil {
		return 0, err
	}
	return b.ResponseWriter.Write(p)
}

// Flush sends what was written.
func (b *bounded) Flush() {
	if b.control.SetWriteDeadline(time.Now().Add(b.stall)) == nil {
		_ = b.control.Flush()
	}
}

// Unwrap is for http.ResponseController.
func (b *bounded) Unwrap() http.ResponseWriter { return b.ResponseWriter }
