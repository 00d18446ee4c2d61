package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
)

// There is what can be asked, for those who ask for something else.
const There = "GET /v1/machine, /v1/boot, /v1/services, /v1/services/NAME, /v1/services/NAME/audit, /v1/events, /v1/logs; " +
	"POST /v1/services/NAME/start, stop, restart, kill, reload, exec; POST /v1/machine/poweroff, reboot, halt"

// tailLines is how many of its last lines a service's status has.
const tailLines = 10

func (s *Server) serve(b *exchange, r *http.Request) {
	// Escaped, as a name that nobody has may hold a slash.
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/"+api.Version+"/")
	if !ok {
		version, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if len(version) > 1 && version[0] == 'v' && strings.Trim(version[1:], "0123456789") == "" && version != api.Version {
			fail(b, http.StatusNotFound, "this supervisor does not speak version "+version+" of the protocol", "/"+api.Version+"/...")
			return
		}
		fail(b, http.StatusNotFound, "there is no "+r.URL.Path, There)
		return
	}
	part := strings.Split(rest, "/")
	for i := range part {
		part[i], _ = url.PathUnescape(part[i]) // the request was read, so it can be
	}
	switch {
	case len(part) == 1 && part[0] == "machine":
		s.get(b, r, func() { answer(b, http.StatusOK, s.cfg.Machine()) })
	case len(part) == 2 && part[0] == "machine" && slices.Contains([]string{"poweroff", "reboot", "halt"}, part[1]):
		s.change(b, r, nil, part[1]+" of the machine", func(url.Values) { s.power(b, part[1]) })
	case len(part) == 1 && part[0] == "boot":
		s.get(b, r, func() { answer(b, http.StatusOK, s.cfg.Boot()) })
	case len(part) == 1 && part[0] == "events":
		s.get(b, r, func() { s.events(b, r) })
	case len(part) == 1 && part[0] == "logs":
		s.get(b, r, func() { s.cfg.Logs.ServeHTTP(b, r) })
	case len(part) == 1 && part[0] == "services":
		s.get(b, r, func() { s.list(b) })
	case len(part) == 2 && part[0] == "services":
		s.get(b, r, func() { s.status(b, part[1]) })
	case len(part) == 3 && part[0] == "services" && part[2] == "audit":
		s.get(b, r, func() { s.audit(b, r, part[1]) })
	case len(part) == 3 && part[0] == "services" && part[2] == "exec":
		s.change(b, r, nil, "exec in "+part[1], func(url.Values) { s.exec(b, r, part[1]) })
	case len(part) == 3 && part[0] == "services" && slices.Contains([]string{"start", "stop", "restart", "kill", "reload"}, part[2]):
		allowed := []string{"timeout"}
		if part[2] == "kill" {
			allowed = []string{"signal"}
		}
		s.change(b, r, allowed, part[2]+" of "+part[1], func(v url.Values) { s.request(b, r, part[1], part[2], v) })
	default:
		fail(b, http.StatusNotFound, "there is no "+r.URL.Path, There)
	}
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, do func()) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", http.MethodGet)
		fail(w, http.StatusMethodNotAllowed, r.Method+" is not for "+r.URL.Path, "GET "+r.URL.Path)
		return
	}
	do()
}

// change lets through what is meant to change something, from who may, with none but
// these parameters. what is the change in words.
func (s *Server) change(w *exchange, r *http.Request, allowed []string, what string, do func(url.Values)) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		fail(w, http.StatusMethodNotAllowed, r.Method+" is not for "+r.URL.Path, "POST "+r.URL.Path)
		return
	}
	if v, ok := parameters(w, r, allowed...); ok && s.mayChange(w, what) {
		do(v)
	}
}

// parameters returns the query, or refuses one with a parameter nobody knows.
func parameters(w http.ResponseWriter, r *http.Request, allowed ...string) (url.Values, bool) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, http.StatusBadRequest, "the query cannot be read: "+err.Error(), "name=value&...")
		return nil, false
	}
	for name := range v {
		if !slices.Contains(allowed, name) {
			want := "none"
			if len(allowed) > 0 {
				want = strings.Join(allowed, ", ")
			}
			fail(w, http.StatusBadRequest, fmt.Sprintf("%q is no parameter of %s", name, r.URL.Path), want)
			return nil, false
		}
	}
	return v, true
}

func (s *Server) list(w http.ResponseWriter) {
	all := []api.Service{}
	if services := s.cfg.Services(); services != nil {
		all = services.All()
	}
	for i := range all {
		s.figures(&all[i])
		all[i].Moves = nil
	}
	answer(w, http.StatusOK, all)
}

// figures adds what the cgroup says, if it is there.
func (s *Server) figures(svc *api.Service) {
	if svc.PID == 0 || svc.Cgroup == "" {
		return
	}
	if f, err := s.cfg.Figures(svc.Cgroup); err == nil {
		svc.Figures = &f
	}
}

func (s *Server) status(w http.ResponseWriter, name string) {
	svc, ok := s.find(w, name)
	if !ok {
		return
	}
	s.figures(&svc)
	if s.cfg.Grant != nil {
		s.cfg.Grant(&svc)
	}
	svc.Log = s.cfg.Tail(name, tailLines)
	answer(w, http.StatusOK, svc)
}

// audit answers with what a service that runs could do.
func (s *Server) audit(w http.ResponseWriter, r *http.Request, name string) {
	svc, ok := s.find(w, name)
	if !ok {
		return
	}
	if svc.PID == 0 {
		fail(w, http.StatusConflict, name+" does not run: it is "+svc.State, "a service that runs; mkimage audit judges an image")
		return
	}
	report, err := s.cfg.Audit(r.Context(), svc)
	if err != nil {
		fail(w, http.StatusConflict, err.Error(), "")
		return
	}
	answer(w, http.StatusOK, report)
}

// find returns a service, or says why there is none.
func (s *Server) find(w http.ResponseWriter, name string) (api.Service, bool) {
	services := s.cfg.Services()
	if services == nil {
		fail(w, http.StatusServiceUnavailable, "the boot has not come to the services yet", "ask again, or follow /v1/events")
		return api.Service{}, false
	}
	svc, ok := services.Info(name)
	if !ok {
		want := "the image has no services"
		if names := services.Names(); len(names) > 0 {
			want = strings.Join(names, ", ")
		}
		fail(w, http.StatusNotFound, "there is no service "+strconv.Quote(name), want)
		return api.Service{}, false
	}
	return svc, true
}

// request passes a person's wish on to a service and answers with what it is then.
func (s *Server) request(w http.ResponseWriter, r *http.Request, name, what string, v url.Values) {
	if _, ok := s.find(w, name); !ok {
		return
	}
	ctx := r.Context()
	if text := v.Get("timeout"); text != "" {
		bound, err := time.ParseDuration(text)
		if err != nil || bound <= 0 {
			fail(w, http.StatusBadRequest, fmt.Sprintf("timeout: %q is no duration", text), "a duration such as 500ms or 10s")
			return
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, bound)
		defer cancel()
	}
	services := s.cfg.Services()
	var err error
	switch what {
	case "start":
		err = services.Start(ctx, name)
	case "stop":
		err = services.Stop(ctx, name)
	case "restart":
		err = services.Restart(ctx, name)
	case "reload":
		err = services.Reload(ctx, name)
	case "kill":
		sig := unix.SIGTERM
		if text := v.Get("signal"); text != "" {
			if sig, err = ParseSignal(text); err != nil {
				fail(w, http.StatusBadRequest, "signal: "+err.Error(), "a name such as HUP or SIGHUP, or a number from 1 to 64")
				return
			}
		}
		err = services.Kill(name, sig)
	}
	switch {
	case err == nil:
		s.status(w, name)
	case ctx.Err() != nil:
		fail(w, http.StatusGatewayTimeout, err.Error(), "it goes on; ask for its state, or wait longer")
	default:
		fail(w, http.StatusConflict, err.Error(), "")
	}
}

// ParseSignal understands the name of a signal, with or without SIG, or its number.
func ParseSignal(text string) (unix.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil {
		if n < 1 || n > 64 {
			return 0, fmt.Errorf("%d is no signal", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("%q is no signal", text)
}

func (s *Server) power(w http.ResponseWriter, action string) {
	if err := s.cfg.Power(action); err != nil {
		fail(w, http.StatusInternalServerError, err.Error(), "")
		return
	}
	answer(w, http.StatusAccepted, s.cfg.Machine())
}

// events sends what has happened, and with follow=1 what happens, until the client
// has gone.
func (s *Server) events(w *exchange, r *http.Request) {
	v, ok := parameters(w, r, "follow", "backlog", "last", "service")
	if !ok {
		return
	}
	follow, ok1 := yesNo(w, v, "follow", false)
	backlog, ok2 := yesNo(w, v, "backlog", true)
	last, ok3 := number(w, v, "last")
	if !ok1 || !ok2 || !ok3 {
		return
	}
	names := v["service"]
	sub := s.cfg.Events.Subscribe(backlog && last != 0)
	defer sub.Close()
	w.Header().Set("Content-Type", "application/jsonl")
	w.WriteHeader(http.StatusOK)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	missed := uint64(0) // before what is sent next
	wanted := func(ev *api.Event) bool {
		missed += ev.Missed
		if len(names) > 0 && !slices.Contains(names, ev.Service) {
			return false
		}
		ev.Missed, missed = missed, 0
		return true
	}
	send := func(ev api.Event) bool { return !wanted(&ev) || e.Encode(ev) == nil }
	if last > 0 {
		var all []api.Event
		for range len(sub.C()) {
			if ev := <-sub.C(); wanted(&ev) {
				all = append(all, ev)
			}
		}
		if more := len(all) - last; more > 0 {
			all = all[more:]
			all[0].Missed = 0 // nor was it asked for
		}
		for _, ev := range all {
			if e.Encode(ev) != nil {
				return
			}
		}
	}
	for {
		select {
		case ev := <-sub.C():
			if !send(ev) {
				return
			}
			continue
		default:
		}
		if !follow {
			return
		}
		w.Flush()
		select {
		case ev := <-sub.C():
			if !send(ev) {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// number is a parameter that is 0 or more; without it, -1.
func number(w http.ResponseWriter, v url.Values, name string) (value int, ok bool) {
	text := v.Get(name)
	if text == "" {
		return -1, true
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		fail(w, http.StatusBadRequest, fmt.Sprintf("%s: %q is no number", name, text), "0 or more")
		return 0, false
	}
	return n, true
}

func yesNo(w http.ResponseWriter, v url.Values, name string, otherwise bool) (value, ok bool) {
	switch v.Get(name) {
	case "":
		return otherwise, true
	case "1", "true":
		return true, true
	case "0", "false":
		return false, true
	}
	fail(w, http.StatusBadRequest, fmt.Sprintf("%s: %q is neither yes nor no", name, v.Get(name)), "1 or 0")
	return false, false
}

// body decodes a request's body, in which a field that nobody knows is an error.
func body(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("there is something behind it")
	}
	return nil
}
