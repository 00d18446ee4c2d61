package logs

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// There is an end to how many read at the same time, and a place again when one has gone.
func TestReadersAreBounded(t *testing.T) {
	m := newMachine(t)
	m.say("web", Stdout, "line")
	server := httptest.NewServer(Handler(m.Store))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	get := func(ctx context.Context, query string) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	for range maxReaders {
		defer get(ctx, "/?follow=1").Body.Close()
	}
	last := get(t.Context(), "/")
	last.Body.Close()
	if last.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one too many got %s", last.Status)
	}
	cancel()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		last := get(t.Context(), "/")
		last.Body.Close()
		if last.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("when they have gone: %s", last.Status)
		}
	}
}

// An answer that is cut short is not ended as a whole one is.
func TestCutAnswerIsNoWholeOne(t *testing.T) {
	m := newMachine(t)
	m.say("web", Stdout, "line")
	defer func() {
		if e := recover(); e != http.ErrAbortHandler {
			t.Errorf("the handler ended with %v", e)
		}
	}()
	Handler(m.Store).ServeHTTP(failing{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/", nil))
}

// failing is an answer that cannot be sent.
type failing struct{ *httptest.ResponseRecorder }

func (failing) Write([]byte) (int, error) { return 0, errors.New("it cannot be sent") }
