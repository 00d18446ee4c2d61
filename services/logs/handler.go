package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"keelson/internal/api"
)

// maxReaders bounds those who read by Handler at the same time, as each may need a
// piece of every stream in memory.
const maxReaders = 16

// Handler answers GET with the records that the query asks for, one JSON object
// a line; see ParseQuery for the query and Record.Encode for the lines. With
// follow=1 it goes on until the client has gone. A reader more than maxReaders is
// turned away.
func Handler(s *Store) http.Handler {
	places := make(chan struct{}, maxReaders)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse := func(status int, err error) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(api.Error{Error: err.Error()})
		}
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		default:
			refuse(http.StatusServiceUnavailable, fmt.Errorf("%d are reading logs, more cannot at the same time", maxReaders))
			return
		}
		q, err := ParseQuery(r.URL.Query())
		if err != nil {
			refuse(http.StatusBadRequest, err)
			return
		}
		began := false
		start := func() {
			if !began {
				w.Header().Set("Content-Type", "application/jsonl")
				began = true
			}
		}
		flusher, _ := w.(http.Flusher)
		err = s.read(r.Context(), q, func(rec Record) error {
			start()
			line, err := rec.Encode(s.wallAt(rec.At))
			if err != nil {
				return err
			}
			_, err = w.Write(line)
			return err
		}, func() {
			start()
			if flusher != nil {
				flusher.Flush() // whoever follows sees what there is
			}
		})
		if unknown, ok := errors.AsType[UnknownSource](err); ok && !began {
			refuse(http.StatusNotFound, unknown)
		}
	})
}

// wallAt is what the wall clock would have shown at a time since the machine's
// start, as it goes now.
func (s *Store) wallAt(at time.Duration) time.Time {
	return s.cfg.Wall().Add(at - s.cfg.Now()).UTC()
}
