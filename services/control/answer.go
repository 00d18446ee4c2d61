package control

import (
	"encoding/json"
	"net/http"

	"keelson/internal/api"
)

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
