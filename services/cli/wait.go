package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson/internal/api"
	"keelson/services/lifecycle"
)

// waitDefault is how long wait waits unless it is told.
const waitDefault = 60 * time.Second

func (a *app) wait(fs *flag.FlagSet, args []string) int {
	format := output(fs)
	state := fs.String("for", string(lifecycle.Ready), "")
	timeout := fs.Duration("timeout", waitDefault, "")
	names, err := parse(fs, args)
	if err != nil {
		return a.usage("wait", "%v", err)
	}
	if len(names) == 0 {
		return a.usage("wait", "for which service? service list shows them")
	}
	if code, wrong := a.wrongOutput("wait", *format); wrong {
		return code
	}
	if *timeout < 0 {
		return a.usage("wait", "--timeout: %v is no time to wait: a duration such as 10s, or 0 for as long as it takes", *timeout)
	}
	states := strings.Split(*state, ",")
	var known []string
	for _, s := range lifecycle.States {
		known = append(known, string(s))
	}
	for _, s := range states {
		if !slices.Contains(known, s) {
			return a.usage("wait", "--for=%s: the states are %s%s", s, strings.Join(known, ", "), didYouMean(s, known))
		}
	}
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	if *timeout > 0 {
		ctx, cancel = context.WithTimeout(a.ctx, *timeout)
		defer cancel()
	}
	type result struct {
		s   api.Service
		err error
	}
	results := make([]result, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { results[i].s, results[i].err = a.await(ctx, name, states) })
	}
	wg.Wait()
	code := codeOK
	for i, r := range results {
		switch {
		case errors.Is(r.err, context.DeadlineExceeded):
			code = a.fail(fmt.Errorf("%s is not %s after %v: it is %s%s: %w", names[i], strings.Join(states, " or "), *timeout, r.s.State, waitsFor(r.s), errTimeout))
		case r.err != nil:
			code = a.fail(r.err)
		case *format == "json":
			a.json(r.s)
		default:
			a.say("%s is %s", r.s.Name, r.s.State)
		}
	}
	return code
}

func waitsFor(s api.Service) string {
	if len(s.WaitingFor) > 0 {
		return ", waiting for " + strings.Join(s.WaitingFor, ", ")
	}
	return ""
}

// await waits until a service is in one of the states. It looks, and looks again
// after each event; a supervisor that goes away is waited for.
func (a *app) await(ctx context.Context, name string, states []string) (last api.Service, err error) {
	for {
		err := a.follow(ctx, url.Values{"backlog": {"0"}, "follow": {"1"}, "service": {name}}, func() (bool, error) {
			s, err := a.client.service(ctx, name)
			if err != nil {
				return false, err
			}
			last = s
			if slices.Contains(states, s.State) || s.State == "ready" && slices.Contains(states, "running") {
				return true, nil
			}
			if s.State == string(lifecycle.Failed) {
				return false, fmt.Errorf("%s has failed and will not become %s by itself: %s", name, strings.Join(states, " or "), s.Cause)
			}
			return false, nil
		})
		if err == nil {
			return last, nil
		}
		if ctx.Err() != nil {
			return last, ctx.Err()
		}
		r, refused := errors.AsType[*refusal](err)
		_, nobody := errors.AsType[*unreachable](err)
		if !nobody && !errors.Is(err, errCut) && !(refused && r.status == http.StatusServiceUnavailable) {
			return last, err
		}
		if missing(err) {
			return last, err
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// errCut says that a stream ended that should not.
var errCut = errors.New("the supervisor has ended the connection")

// follow looks once, and then after each event of the stream, until look says that
// it is enough. The stream is there before the first look, so that nothing is missed.
func (a *app) follow(ctx context.Context, query url.Values, look func() (bool, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.client.do(ctx, http.MethodGet, "/events", query)
	if err != nil {
		return err
	}
	defer stream.Body.Close()
	lines := bufio.NewScanner(stream.Body)
	lines.Buffer(nil, 1<<20)
	for {
		if done, err := look(); done || err != nil {
			return err
		}
		if !lines.Scan() {
			return errCut
		}
		var e api.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("an event cannot be read: %w", err)
		}
	}
}
