package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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
		v, err := values(r)
		var q Query
		if err == nil {
			q, err = ParseQuery(v)
		}
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
			if !q.Positions {
				rec.Position = Position{}
			}
			line, err := rec.Encode(s.wallAt(rec.At))
			if err != nil {
				return err
			}
			_, err = w.Write(line)
			return err
		}, func(begin Begin) error {
			if !q.Positions {
				return nil
			}
			start()
			line, err := begin.encode()
			if err == nil {
				_, err = w.Write(line)
			}
			return err
		}, func() {
			start()
			if flusher != nil {
				flusher.Flush() // whoever follows sees what there is
			}
		})
		switch unknown, ok := errors.AsType[UnknownSource](err); {
		case ok && !began:
			refuse(http.StatusNotFound, unknown)
		case err != nil && began:
			panic(http.ErrAbortHandler) // an answer that ended in order would pass for a whole one
		}
	})
}

// values are a request's parameters: those of its URL, and of its body, as positions in
// many streams are more than a URL has room for.
func values(r *http.Request) (url.Values, error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("the query is none: %w", err)
	}
	if r.Body == nil {
		return v, nil
	}
	body, err := io.ReadAll(r.Body) // bounded by whoever took it
	if err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	more, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, fmt.Errorf("the body is no query: %w", err)
	}
	for k, values := range more {
		v[k] = append(v[k], values...)
	}
	return v, nil
}

// wallAt is what the wall clock would have shown at a time since the machine's
// start, as it goes now.
func (s *Store) wallAt(at time.Duration) time.Time {
	return s.cfg.Wall().Add(at - s.cfg.Now()).UTC()
}
