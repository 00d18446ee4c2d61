package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"keelson/internal/api"
	"keelson/internal/bundle"
	"keelson/services/task"
)

// servicesDir is where the image's services are.
const servicesDir = "/containers/services"

func steerCommands() []command {
	return []command{
		{"start", "NAME... [--timeout=TIME]", "start a service, and what it requires before it", `
Starts each service, and what it requires before it, and returns when it is ready.
A service that was stopped, or has failed, is kept again from then on.

  service start web
  service start web --timeout=10s     wait no longer than that; the start goes on

LinuxKit's form works too, with one NAME: service start [-sock SOCKET] [-path DIR]
[-dump-spec FILE] NAME. -dump-spec writes the runtime configuration with which the
container is made; -path has to be the folder that the supervisor keeps; -sock is
taken and not needed, as it is the supervisor that speaks to containerd.
`, func(a *app, fs *flag.FlagSet, args []string) int { return a.steer("start", fs, args) }},
		{"stop", "NAME... [--timeout=TIME]", "stop a service, and those that require it before it", `
Stops each service with its stop signal, and after its stop timeout by force. Those
that require it are stopped before. It returns when everything has ended. A stopped
service stays stopped until it is started: its restart policy does not apply, and a
supervisor that is started again leaves it so too.

LinuxKit's form works too; see service help start.
`, func(a *app, fs *flag.FlagSet, args []string) int { return a.steer("stop", fs, args) }},
		{"restart", "NAME... [--timeout=TIME]", "stop a service and start it again, with those that require it", `
Stops each service and those that require it, starts all of them again, and returns
when they are ready. LinuxKit's form works too; see service help start.
`, func(a *app, fs *flag.FlagSet, args []string) int { return a.steer("restart", fs, args) }},
		{"kill", "[-s SIGNAL] NAME...", "send a signal to a service's first process", `
Sends a signal, TERM unless said otherwise, to the first process of each service. If
the service ends by it, its restart policy decides what follows: to have it stay
down, use service stop.

  service kill -s HUP nginx
  service kill -s 9 web
`, func(a *app, fs *flag.FlagSet, args []string) int { return a.steer("kill", fs, args) }},
		{"reload", "NAME...", "read a service's configuration again", `
Reads config.json and runtime.json of each service again. What its annotations say of
policy is in force at once, everything else from its next start. If something is
wrong there, nothing changes, and it is said what and where.
`, func(a *app, fs *flag.FlagSet, args []string) int { return a.steer("reload", fs, args) }},
	}
}

// steering is the options of what changes a service.
type steering struct {
	format, timeout, signal *string
	sock, path, dump        *string
}

func (a *app) steer(what string, fs *flag.FlagSet, args []string) int {
	var o steering
	o.format = output(fs)
	if what != "kill" && what != "reload" {
		o.timeout = fs.String("timeout", "", "")
		o.sock = fs.String("sock", "", "")
		o.path = fs.String("path", servicesDir, "")
		o.dump = fs.String("dump-spec", "", "")
	}
	if what == "kill" {
		o.signal = fs.String("s", "TERM", "")
	}
	names, err := parse(fs, args)
	if err != nil {
		return a.usage(what, "%v", err)
	}
	if len(names) == 0 {
		return a.usage(what, "which service? service list shows them")
	}
	if code, wrong := a.wrongOutput(what, *o.format); wrong {
		return code
	}
	query := url.Values{}
	if o.timeout != nil && *o.timeout != "" {
		if d, err := time.ParseDuration(*o.timeout); err != nil || d <= 0 {
			return a.usage(what, "--timeout: %q is no duration such as 10s", *o.timeout)
		}
		query.Set("timeout", *o.timeout)
	}
	if o.signal != nil {
		query.Set("signal", *o.signal)
	}
	if o.sock != nil && *o.sock != "" {
		a.detail("-sock %s is not needed: the supervisor speaks to containerd", *o.sock)
	}
	if o.dump != nil && *o.dump != "" {
		if len(names) != 1 {
			return a.usage(what, "-dump-spec is for one service")
		}
		if err := dumpSpec(*o.path, names[0], *o.dump); err != nil {
			return a.fail(err)
		}
	}
	return a.steerAll(what, names, o, query)
}

// steerAll asks for all at once, and shows what came of it in their order.
func (a *app) steerAll(what string, names []string, o steering, query url.Values) int {
	type result struct {
		s   api.Service
		err error
	}
	results := make([]result, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			r := &results[i]
			if r.err = a.check(name, o); r.err == nil {
				r.err = helpfully(a.client.ask(a.ctx, http.MethodPost, servicePath(name, what), query, &r.s), name)
				if refused, ok := errors.AsType[*refusal](r.err); ok { // the option is known by another name here
					if rest, ok := strings.CutPrefix(refused.body.Error, "signal: "); ok {
						refused.body.Error = "-s: " + rest
					}
				}
			}
		})
	}
	wg.Wait()
	code := codeOK
	for _, r := range results {
		switch {
		case r.err != nil:
			code = a.fail(r.err)
		case *o.format == "json":
			a.json(r.s)
		case what == "kill":
			a.detail("%s was sent %s", r.s.Name, *o.signal)
		case what == "reload":
			a.say("%s: read again; what is not policy is in force from its next start", r.s.Name)
		case r.s.PID != 0:
			a.say("%s is %s (pid %d)", r.s.Name, r.s.State, r.s.PID)
		default:
			a.say("%s is %s", r.s.Name, r.s.State)
		}
	}
	return code
}

// check refuses what LinuxKit's options name and the supervisor does not keep.
func (a *app) check(name string, o steering) error {
	if a.namespace == "" && (o.path == nil || filepath.Clean(*o.path) == servicesDir) {
		return nil
	}
	s, err := a.client.service(a.ctx, name)
	if err != nil {
		return err
	}
	if a.namespace != "" && s.Namespace != a.namespace {
		return fmt.Errorf("%s lives in containerd's namespace %s, not in %s", name, s.Namespace, a.namespace)
	}
	if o.path != nil && filepath.Dir(s.Image) != filepath.Clean(*o.path) {
		return fmt.Errorf("the supervisor keeps %s, not %s", s.Image, filepath.Join(*o.path, name))
	}
	return nil
}

// dumpSpec writes the configuration with which the container of a folder is made.
func dumpSpec(path, name, file string) error {
	b, err := bundle.Load(bundle.Services, filepath.Join(path, name))
	if err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	walls, _ := task.MachineWalls(string(cmdline)) // the supervisor has warned of what is wrong there
	spec, err := task.Spec(b, walls, filepath.Join(filepath.Dir(api.Socket), "notify"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, spec, 0o644); err != nil {
		return fmt.Errorf("-dump-spec: %w", err)
	}
	return nil
}

// systemInit is LinuxKit's way to prepare the machine and start everything, which
// has been done long before anybody can type it.
func (a *app) systemInit(fs *flag.FlagSet, args []string) int {
	fs.String("sock", "", "")
	fs.String("path", servicesDir, "")
	fs.String("binary", "", "")
	if rest, err := parse(fs, args); err != nil || len(rest) > 0 {
		return a.usage("system-init", "it takes no arguments")
	}
	ctx, cancel := context.WithTimeout(a.ctx, 30*time.Second)
	defer cancel()
	m, err := a.client.machine(ctx)
	if err != nil {
		return a.fail(err)
	}
	a.say("The supervisor has started containerd and the services by itself: the machine is %s, %d of %d services ready.", m.State, m.Ready, m.Services)
	return codeOK
}
