package roster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/policy"
)

// threeTier is what people write: db, app that requires it, proxy after app.
func threeTier(t *testing.T) *world {
	w := newWorld(t, map[string]map[string]string{
		"db": keys(), "app": keys("requires", "db"), "proxy": keys("after", "app"),
	})
	for _, name := range []string{"db", "app", "proxy"} {
		w.change(name, func(a *act) { a.readyTime, a.stopTime = time.Second, time.Second })
	}
	return w
}

func TestThreeTiersComeUpAndGoDownInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeTier(t)
		w.run()
		w.are(keys("db", "running", "app", "waiting: db (running)", "proxy", "waiting: app (waiting)"))
		if got := strings.Join(w.r.Unsettled(), ", "); got != "app (waiting), db (running), proxy (waiting)" {
			t.Errorf("the boot waits for %q", got)
		}
		w.until(10 * time.Second)
		w.are(keys("db", "ready", "app", "ready", "proxy", "ready"))
		if left := w.r.Unsettled(); len(left) > 0 {
			t.Errorf("the boot waits for %q", left)
		}
		w.end()
		w.happened("0s +db", "1s +app", "2s +proxy", "11s -proxy", "12s -app", "13s -db")
	})
}

func TestWhatIsRequiredTakesItsUsersDownAndUpWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeTier(t)
		w.run()
		w.until(20 * time.Second)
		w.history = nil
		w.task("db").Ends(3) // it had been well: started again at once
		synctest.Wait()
		w.until(20*time.Second + 500*time.Millisecond)
		w.are(keys("db", "running", "app", "stopping", "proxy", "ready"))
		w.until(30 * time.Second)
		w.are(keys("db", "ready", "app", "ready", "proxy", "ready"))
		w.happened("20s -db", "20s +db", "21s -app", "21s +app")
		if w.Count("app: stopped in 1.000s (killed by SIGTERM): db, which it requires, ") != 1 {
			t.Errorf("the console shows %q", w.Shown())
		}
		w.end()
	})
}

// The second life of what is required may be ready before its user has looked.
func TestAUserNeverOutlivesWhatItRequires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]map[string]string{"db": keys("ready", "started"), "app": keys("requires", "db", "ready", "started")})
		w.run()
		w.until(20 * time.Second)
		w.history = nil
		w.task("db").Ends(0)
		w.until(21 * time.Second)
		w.are(keys("db", "ready", "app", "ready"))
		w.happened("20s -db", "20s +db", "20s -app", "20s +app")
		w.end()
	})
}

func TestWaitingSaysForWhat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]map[string]string{
			"db": keys("restart.limit", "2/1h"), "app": keys("requires", "db"), "web": keys("requires", "app"), "log": keys("after", "db,app"),
		})
		w.change("db", func(a *act) { a.startErr = errors.New("no disk") })
		w.run()
		w.are(keys("db", "backoff", "app", "waiting: db (backoff)", "web", "waiting: app (waiting)", "log", "ready"))
		if left := w.r.Unsettled(); len(left) > 0 {
			t.Errorf("the boot waits for %q", left)
		}
		if w.Count("waits for") > 0 {
			t.Errorf("a wait that may end was said: %q", w.Shown())
		}
		w.until(time.Second)
		w.are(keys("db", "failed", "app", "waiting: db (failed)", "web", "waiting: app (waiting)"))
		if w.Count("app: warning: waits for db (failed)") != 1 || w.Count("web: warning: waits for app (waiting)") != 1 {
			t.Errorf("the console shows %q", w.Shown())
		}
		if err := w.r.Start(context.Background(), "web"); err == nil || !strings.Contains(err.Error(), "web waits for app (waiting)") {
			t.Errorf("its start says %v", err)
		}
		w.change("db", func(a *act) { a.startErr = nil })
		if err := w.r.Start(context.Background(), "web"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		w.are(keys("db", "ready", "app", "ready", "web", "ready"))
		w.end()
	})
}

func TestAStopSticksAlsoUnderTheNextSupervisor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeTier(t)
		w.run()
		w.until(20 * time.Second)
		w.history = nil
		if err := w.r.Stop(context.Background(), "db"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		w.are(keys("db", "stopped", "app", "waiting: db (stopped)", "proxy", "ready"))
		w.happened("21s -app", "22s -db")
		w.cancel() // the supervisor dies
		synctest.Wait()
		w.cfg.Resumed = true
		w.make(map[string]map[string]string{"db": keys(), "app": keys("requires", "db"), "proxy": keys("after", "app")})
		w.run()
		w.until(time.Minute)
		w.are(keys("db", "stopped", "app", "waiting: db (stopped)", "proxy", "ready"))
		w.happened()
		if err := w.r.Start(context.Background(), "db"); err != nil {
			t.Error(err)
		}
		w.until(2 * time.Minute)
		w.are(keys("db", "ready", "app", "ready", "proxy", "ready"))
		w.happened("1m0s +db", "1m1s +app")
		w.end()
	})
}

func TestRestartTakesUsersAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := threeTier(t)
		w.run()
		w.until(20 * time.Second)
		w.history = nil
		if err := w.r.Restart(context.Background(), "db"); err != nil {
			t.Error(err)
		}
		w.are(keys("db", "ready", "app", "ready", "proxy", "ready"))
		w.happened("21s -app", "22s -db", "22s +db", "23s +app")
		w.end()
	})
}

func TestEveryRequestIsAnsweredInEveryState(t *testing.T) {
	for name, prepare := range map[string]func(*world){
		"starting":  func(w *world) { w.change("web", func(a *act) { a.startTime = time.Hour }) },
		"running":   func(w *world) { w.change("web", func(a *act) { a.never = true }) },
		"ready":     func(*world) {},
		"backoff":   func(w *world) { w.change("web", func(a *act) { a.startErr = errors.New("no") }) },
		"failed":    func(w *world) { w.change("limited", func(a *act) { a.startErr = errors.New("no") }) },
		"waiting":   func(w *world) { w.change("limited", func(a *act) { a.startErr = errors.New("no") }) },
		"stopping":  func(w *world) { w.change("web", func(a *act) { a.stopTime = 5 * time.Second }) },
		"stopped":   func(*world) {},
		"unhealthy": func(w *world) { w.change("web", func(a *act) { a.stopTime = 5 * time.Second }) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, request := range []string{"start", "stop", "restart", "kill", "leave"} {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, map[string]map[string]string{
						"web":     keys("health", "tcp:80", "health.interval", "1s", "health.retries", "1"),
						"limited": keys("restart", "never"), "user": keys("requires", "limited"),
					})
					prepare(w)
					w.run()
					w.until(500 * time.Millisecond)
					who := "web"
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					switch name {
					case "failed":
						who = "limited"
					case "waiting":
						who = "user"
					case "stopped":
						_ = w.r.Stop(ctx, who)
					case "stopping":
						go func() { _ = w.r.Stop(ctx, who) }()
					case "unhealthy":
						w.change("web", func(a *act) { a.never = true })
						w.until(2 * time.Second)
					}
					synctest.Wait()
					if i, _ := w.r.Info(who); i.State != name {
						t.Fatalf("it is %s", i.State)
					}
					w.change(who, func(a *act) { a.never, a.startErr = false, nil })
					var err error
					began := w.now()
					switch request {
					case "start":
						err = w.r.Start(ctx, who)
					case "stop":
						err = w.r.Stop(ctx, who)
					case "restart":
						err = w.r.Restart(ctx, who)
					case "kill":
						_ = w.r.Kill(who, unix.SIGUSR1)
					}
					if took := w.now() - began; took > 20*time.Second {
						t.Errorf("%s took %v", request, took)
					}
					hung := name == "starting" && (request == "start" || request == "restart")
					if hung != (err != nil) && !(name == "unhealthy" && request == "start") && !(name == "waiting" && err != nil) {
						t.Errorf("%s: %v", request, err)
					}
					synctest.Wait()
					w.end()
				})
			}
		})
	}
}

func TestShutdownDoesNotWaitForWhatCannotBeKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]map[string]string{"db": keys(), "app": keys("requires", "db"), "web": keys("requires", "app")})
		w.change("web", func(a *act) { a.stuck = true })
		w.change("app", func(a *act) { a.deaf = true })
		w.run()
		w.until(time.Minute)
		w.history = nil
		began := w.now()
		w.end()
		// web: 10 s to stop and 5 to die; app: 10 s to stop; db: at once.
		if took := w.now() - began; took != 25*time.Second {
			t.Errorf("it took %v", took)
		}
		w.happened("1m25s -app", "1m25s -db")
	})
}

func TestAnOrderThatCannotBeIsSaidAndLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]map[string]string{
			"a": keys("requires", "b"), "b": keys("after", "a"), "c": keys("requires", "nowhere"),
		})
		w.run()
		w.are(keys("a", "ready", "b", "ready", "c", "ready"))
		if len(w.warnings) != 2 {
			t.Fatalf("warnings: %q", w.warnings)
		}
		for i, want := range []string{"there is no service nowhere", "a cycle: a -> b -> a"} {
			if got := w.warnings[i].Text; !strings.Contains(got, want) || !strings.Contains(got, "config.json: annotations: keelson.requires") || !strings.Contains(got, "started without") {
				t.Errorf("warning %q", got)
			}
		}
		if i, _ := w.r.Info("b"); len(i.Problems) != 1 {
			t.Errorf("b's problems: %q", i.Problems)
		}
		w.end()
	})
}

func TestNotReadyInTimeIsAFailedStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]map[string]string{"web": keys("ready.timeout", "5s", "restart.limit", "1/1h", "on-failure", "reboot")})
		w.change("web", func(a *act) { a.never = true })
		w.run()
		w.until(time.Minute)
		w.are(keys("web", "failed"))
		w.happened("0s +web", "5s -web", "5.1s +web", "10.1s -web")
		for _, want := range []string{
			"5s web: ERROR: not ready within 5s: connection refused",
			"5s web: ERROR: failed to start: not ready within 5s: connection refused; restart 1 in 100ms",
		} {
			if w.Count(want) != 1 {
				t.Errorf("%q was not said: %q", want, w.Shown())
			}
		}
		if len(w.acted) != 1 || w.acted[0] != policy.ActionReboot {
			t.Errorf("the machine was asked for %v", w.acted)
		}
		w.end()
	})
}

func TestUnhealthyIsKilledAndRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]map[string]string{
			"web": keys("health", "http:80/", "health.interval", "10s", "health.retries", "2", "critical", "true"), "app": keys("requires", "web"),
		})
		w.run()
		w.until(25 * time.Second)
		if i, _ := w.r.Info("web"); i.Health.State != "healthy" {
			t.Errorf("its health is %+v", i.Health)
		}
		w.history = nil
		w.change("web", func(a *act) { a.never, a.deaf = true, true })
		w.until(35 * time.Second)
		if i, _ := w.r.Info("web"); i.Health.Failures != 1 || i.State != "ready" {
			t.Errorf("it is %s, its health %+v", i.State, i.Health)
		}
		w.until(45 * time.Second)
		w.are(keys("web", "unhealthy"))
		if c := w.r.Critical(); len(c) != 1 || c[0].Name != "web" || c[0].State != "unhealthy" || !c[0].Sick {
			t.Errorf("critical: %+v", c)
		}
		w.change("web", func(a *act) { a.never = false })
		w.until(51 * time.Second)
		w.are(keys("web", "ready", "app", "ready"))
		if !w.r.Critical()[0].Sick {
			t.Error("it counts as well before its first health check")
		}
		w.until(61 * time.Second)
		if c := w.r.Critical(); c[0].Sick {
			t.Errorf("it does not count as well: %+v", c)
		}
		w.happened("40s -app", "50s -web", "50s +web", "50s +app")
		if w.Count("web: ERROR: killed by SIGKILL after 50.0s, for it was unhealthy; restart 1 in 0s") != 1 {
			t.Errorf("the console shows %q", w.Shown())
		}
		w.end()
	})
}

// Whatever a supervisor was about to do when it died, the next one finishes it,
// starts nothing twice and restarts nothing that need not be.
func TestASupervisorMayDieAtAnyMoment(t *testing.T) {
	services := map[string]map[string]string{"db": keys(), "app": keys("requires", "db"), "proxy": keys("after", "app")}
	for at := 50 * time.Millisecond; at < 32*time.Second; at += 550 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			w := threeTier(t)
			w.run()
			ctx, cancel := context.WithCancel(context.Background())
			w.after(20*time.Second, func() {
				if f := w.task("db"); f != nil {
					f.Ends(3)
				}
			})
			w.after(25*time.Second, func() { _ = w.roster().Restart(ctx, "app") })
			w.after(28*time.Second, func() { _ = w.roster().Stop(ctx, "proxy") })
			w.until(at)
			w.cancel()
			synctest.Wait()
			time.Sleep(200 * time.Millisecond)
			w.cfg.Resumed = true
			w.make(services)
			w.run()
			w.until(time.Minute)
			w.are(keys("db", "ready", "app", "ready", "proxy", "stopped"))
			starts := map[string]int{}
			for _, what := range w.history {
				if _, name, ok := strings.Cut(what, "+"); ok {
					starts[name]++
				}
			}
			// db: the boot, after its death; app: the boot, with db, when it was asked.
			// A request that the death cut short may have come to nothing.
			if starts["db"] != 2 || starts["app"] > 3 || starts["app"] < 2 || starts["proxy"] != 1 {
				t.Errorf("killed at %v: %v\n%s\n%s", at, starts, strings.Join(w.history, "\n"), strings.Join(w.Shown(), "\n"))
			}
			cancel()
			w.end()
		})
	}
}

// A memory that was lost is no reason to restart what runs, nor what requires it.
func TestALostMemoryRestartsNothing(t *testing.T) {
	for _, text := range []string{"", "{\"state\": 7", "[]"} {
		synctest.Test(t, func(t *testing.T) {
			w := threeTier(t)
			w.run()
			w.until(20 * time.Second)
			w.cancel()
			synctest.Wait()
			w.history = nil
			path := filepath.Join(w.cfg.MemoryDir, "db.json")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			w.cfg.Resumed = true
			w.make(map[string]map[string]string{"db": keys(), "app": keys("requires", "db"), "proxy": keys("after", "app")})
			w.run()
			w.until(time.Minute)
			w.are(keys("db", "ready", "app", "ready", "proxy", "ready"))
			w.happened()
			if w.Count("db: warning: read "+path) != 1 || w.Count("is set aside as "+path+".corrupt") != 1 {
				t.Errorf("the console shows %q", w.Shown())
			}
			w.end()
		})
	}
}

func TestReloadPutsPolicyAndOrderInForce(t *testing.T) {
	dir := t.TempDir()
	config := func(name, annotations string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		text := `{"process": {"args": ["x"]}, "root": {"path": "rootfs"}, "linux": {}, "annotations": {` + annotations + `}}`
		if err := os.WriteFile(filepath.Join(dir, name, "config.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		config("db", ``)
		config("app", `"keelson.stop.timeout": "1s"`)
		w := newWorld(t, nil)
		var loaded []Loaded
		for _, name := range []string{"app", "db"} {
			w.acts[name] = &act{}
			b, err := bundle.Load(bundle.Services, filepath.Join(dir, name))
			loaded = append(loaded, Loaded{b, err})
		}
		w.r, _ = New(w.cfg, w.queues, loaded)
		w.run()
		ctx := context.Background()
		for annotations, want := range map[string]string{
			`"keelson.restrat": "always"`: "config.json: annotations: keelson.restrat: \"always\": no such key; did you mean keelson.restart?",
			`"keelson.requires": "bd"`:    "config.json: annotations: keelson.requires: \"bd\": there is no service bd; did you mean db?",
			`"keelson.after": "app"`:      "a cycle: app -> app",
			`"x": 7`:                      "annotations",
		} {
			config("app", annotations)
			if err := w.r.Reload(ctx, "app"); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", annotations, err)
			}
		}
		if i, _ := w.r.Info("app"); i.Policy.StopTimeout != "1s" || len(i.Requires) > 0 {
			t.Errorf("what was refused is in force: %+v", i)
		}
		config("app", `"keelson.stop.timeout": "2s", "keelson.requires": "db"`)
		if err := w.r.Reload(ctx, "app"); err != nil {
			t.Error(err)
		}
		if i, _ := w.r.Info("app"); i.Policy.StopTimeout != "2s" || len(i.Requires) != 1 {
			t.Errorf("what was read is not in force: %+v", i)
		}
		w.until(time.Second)
		if err := w.r.Stop(ctx, "db"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		w.are(keys("app", "waiting: db (stopped)"))
		if err := w.r.Reload(ctx, "bd"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "there are app, db") {
			t.Errorf("an unknown name: %v", err)
		}
		w.end()
	})
}
