package task

import (
	"context"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A call that waits for its answer makes somebody ask, once; one that waits for an exit, and the question itself, do not.
func TestASlowCallIsWorthAQuestion(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	goesOn := make(chan struct{})
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		<-goesOn
		return status.Error(codes.NotFound, "no such task")
	}))
	go func() { _ = server.Serve(l) }()
	defer server.Stop()

	var asked atomic.Int32
	slow := make(chan struct{}, 8)
	c, err := Dial(socket, func() { asked.Add(1); slow <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	cut, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Ask(cut); err == nil {
		t.Error("one that does not answer answers")
	}
	answers := make(chan error, 3)
	go func() { answers <- c.Ask(t.Context()) }()
	go func() {
		_, _ = c.tasks.Wait(t.Context(), &tasksapi.WaitRequest{ContainerID: "web"})
		answers <- nil
	}()
	time.Sleep(100 * time.Millisecond) // they are on their way before the one that counts
	go func() {
		_, _ = c.tasks.Kill(t.Context(), &tasksapi.KillRequest{ContainerID: "web"})
		answers <- nil
	}()
	<-slow
	if n := asked.Load(); n != 1 {
		t.Errorf("%d questions", n)
	}
	close(goesOn)
	for range 3 {
		if err := <-answers; err != nil {
			t.Errorf("an error is no answer: %v", err)
		}
	}
	server.Stop()
	if err := c.Ask(t.Context()); err == nil {
		t.Error("one that is not there answers")
	}
}
