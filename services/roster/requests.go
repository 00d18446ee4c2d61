package roster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/policy"
	"keelson/services/lifecycle"
	"keelson/services/runner"
)

// Start wants a service up, and what it requires before it. It returns when the
// service is ready, or an error that says why it is not; ctx bounds the wait only.
func (r *Roster) Start(ctx context.Context, name string) error {
	svc, err := r.find(name)
	if err != nil {
		return err
	}
	if err := r.startRequired(name); err != nil {
		return err
	}
	before := r.status(name)
	if err := svc.Start("asked to start"); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return r.awaitReady(ctx, name, before, false)
}

// startRequired wants everything up that a service requires, and what that requires.
func (r *Roster) startRequired(name string) error {
	requires, _, _ := r.orderOf(name)
	for _, other := range requires {
		if err := r.startRequired(other); err != nil {
			return err
		}
		st := r.status(other)
		switch {
		case st.State.Up(), st.State == lifecycle.Starting, st.State == lifecycle.Waiting, st.State == lifecycle.Stopping && st.Comes:
			continue
		}
		if err := r.services[other].Start("asked to start " + name); err != nil {
			return fmt.Errorf("start %s, which %s requires: %w", other, name, err)
		}
	}
	return nil
}

// awaitReady waits until a service is ready, again if it was.
func (r *Roster) awaitReady(ctx context.Context, name string, before runner.Status, again bool) error {
	for {
		moved := r.Moved()
		st := r.status(name)
		switch {
		case st.Ups > before.Ups, !again && ready(st):
			return nil
		case st.Over:
			return fmt.Errorf("start %s: %w", name, runner.ErrOver)
		case st.Stuck != "":
			return fmt.Errorf("%s: %s", name, st.Stuck)
		case st.Failures > before.Failures && st.State == lifecycle.Backoff:
			return fmt.Errorf("%s: %s; it is tried again", name, st.Cause)
		case st.State == lifecycle.Failed, st.Failures > before.Failures:
			return fmt.Errorf("%s is %s: %s", name, st.State, st.Cause)
		case st.State == lifecycle.Stopped:
			return fmt.Errorf("%s was stopped: %s", name, st.Cause)
		case st.State == lifecycle.Waiting && r.waitsInVain(name):
			return fmt.Errorf("%s waits for %s", name, strings.Join(r.waitsFor(name), ", "))
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return r.notYet(name, "ready", st)
		}
	}
}

// notYet says what a service is whose change was waited for too long.
func (r *Roster) notYet(name, what string, st runner.Status) error {
	text := fmt.Sprintf("%s is not %s yet: it is %s", name, what, st.State)
	if list := r.waitsFor(name); len(list) > 0 {
		text += ", waiting for " + strings.Join(list, ", ")
	}
	return errors.New(text)
}

// Stop wants a service down, and those that require it before it. It returns when
// the service has stopped; ctx bounds the wait only. It stays down, also under the
// next supervisor, until it is started.
func (r *Roster) Stop(ctx context.Context, name string) error {
	svc, err := r.find(name)
	if err != nil {
		return err
	}
	if err := svc.Stop("asked to stop"); err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	for {
		moved := r.Moved()
		st := r.status(name)
		switch {
		case st.State == lifecycle.Stopped, st.State == lifecycle.Failed, st.Over:
			return nil
		case st.Stuck != "":
			return fmt.Errorf("%s: %s", name, st.Stuck)
		case !st.Down:
			return fmt.Errorf("%s was asked to start again before it had stopped", name)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return r.notYet(name, "stopped", st)
		}
	}
}

// Restart stops a service, those that require it before it, and starts them again.
// It returns when all are ready; ctx bounds the wait only.
func (r *Roster) Restart(ctx context.Context, name string) error {
	svc, err := r.find(name)
	if err != nil {
		return err
	}
	if err := r.startRequired(name); err != nil {
		return err
	}
	users := r.users(name)
	before := map[string]runner.Status{}
	for _, other := range append(users, name) {
		before[other] = r.status(other)
	}
	if err := svc.Restart("asked to restart"); err != nil {
		return fmt.Errorf("restart %s: %w", name, err)
	}
	if err := r.awaitReady(ctx, name, before[name], true); err != nil {
		return err
	}
	for _, other := range users {
		if !before[other].State.Up() {
			continue
		}
		if err := r.awaitReady(ctx, other, before[other], true); err != nil {
			return fmt.Errorf("%s was restarted, but %w", name, err)
		}
	}
	return nil
}

// users returns those that require a service, however indirectly.
func (r *Roster) users(name string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var users []string
	for queue := []string{name}; len(queue) > 0; queue = queue[1:] {
		for _, other := range r.comeAfter(queue[0], false) {
			if !slices.Contains(users, other) {
				users = append(users, other)
				queue = append(queue, other)
			}
		}
	}
	return users
}

// Kill sends a signal to the first process of a service.
func (r *Roster) Kill(name string, sig unix.Signal) error {
	svc, err := r.find(name)
	if err != nil {
		return err
	}
	if err := svc.Kill(sig); err != nil {
		return fmt.Errorf("signal %s: %w", name, err)
	}
	return nil
}

// Reload reads the folder of a service again. Its policy is in force at once,
// everything else from its next start. An error leaves everything as it was.
func (r *Roster) Reload(_ context.Context, name string) error {
	svc, err := r.find(name)
	if err != nil {
		return err
	}
	b, err := bundle.Load(bundle.Services, svc.Bundle().Dir)
	if err != nil {
		return err // it names the file and the field
	}
	if len(b.Warnings) > 0 {
		return errors.New(strings.Join(b.Warnings, "\n"))
	}
	if err := r.reorder(b); err != nil {
		return err
	}
	if err := svc.Reload(b); err != nil {
		return fmt.Errorf("reload %s: %w", name, err)
	}
	r.Changed(name)
	for _, other := range r.names {
		r.services[other].Wake()
	}
	return nil
}

// reorder puts the order in force that follows from what all folders say, with a
// service's as it is now, if it can be followed.
func (r *Roster) reorder(b *bundle.Bundle) error {
	order, dirs := map[string]policy.Service{}, map[string]string{}
	for _, name := range r.names {
		other := r.services[name].Bundle()
		order[name], dirs[name] = other.Service, other.Dir
	}
	order[b.Name] = b.Service
	problems := map[string][]string{}
	for _, p := range policy.Order(order) {
		if slices.Contains(p.Members, b.Name) {
			return errors.New(orderText(dirs, p))
		}
		for _, m := range p.Members {
			problems[m] = append(problems[m], orderText(dirs, p))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.order, r.problems = order, problems
	r.tell = r.listeners()
	return nil
}

func orderText(dirs map[string]string, p policy.OrderProblem) string {
	return filepath.Join(dirs[p.Service], "config.json") + ": " + p.Error()
}
