package task

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"keelson/internal/bundle"
	"keelson/internal/policy"
)

func TestWhoSharesAShim(t *testing.T) {
	service := &bundle.Bundle{Section: bundle.Services}
	own := &bundle.Bundle{Section: bundle.Services, Service: policy.Service{OwnShim: true}}
	oneShot := &bundle.Bundle{Section: bundle.Onboot}
	for _, tc := range []struct {
		lingers               bool
		service, own, oneShot bool
	}{
		{true, true, false, true},
		{false, true, false, false}, // a stock shim
	} {
		r := &Runtime{ShimLingers: tc.lingers}
		if r.grouped(service) != tc.service || r.grouped(own) != tc.own || r.grouped(oneShot) != tc.oneShot {
			t.Errorf("lingers %v: service %v, own %v, one-shot %v", tc.lingers, r.grouped(service), r.grouped(own), r.grouped(oneShot))
		}
	}
}

func TestTheEndOfAStockShimIsWaitedFor(t *testing.T) {
	r := &Runtime{CgroupRoot: t.TempDir(), ShimCgroup: "/shim"}
	if err := os.Mkdir(filepath.Join(r.CgroupRoot, "shim"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(pids ...int) {
		text := ""
		for _, pid := range pids {
			text += strconv.Itoa(pid) + "\n"
		}
		if err := os.WriteFile(filepath.Join(r.CgroupRoot, "shim", "cgroup.procs"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(7, 8)
	before := r.Shims()
	done := make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() { defer close(done); r.awaitShimEnd(ctx, before) }()
	select {
	case <-done:
		t.Error("nobody has ended")
	default:
	}
	write(8, 9)
	<-done
	r.awaitShimEnd(ctx, nil) // no shim was there: nothing to wait for
}
