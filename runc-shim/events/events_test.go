package events

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
)

// gate is a containerd that is away until it is opened.
type gate struct {
	mu     sync.Mutex
	open   bool
	got    []string
	tries  int
	change chan struct{}
}

func newGate() *gate { return &gate{change: make(chan struct{}, 1)} }

func (g *gate) Send(_ context.Context, e *types.Envelope) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tries++
	select {
	case g.change <- struct{}{}:
	default:
	}
	if !g.open {
		return errors.New("away")
	}
	var x eventsapi.TaskExit
	if err := proto.Unmarshal(e.Event.Value, &x); err != nil {
		return err
	}
	g.got = append(g.got, e.Topic+" "+x.ContainerID)
	return nil
}

func (g *gate) Close() {}

func (g *gate) set(open bool) {
	g.mu.Lock()
	g.open = open
	g.mu.Unlock()
}

func closeWithin(t *testing.T, p *Publisher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p.Close(ctx)
	if ctx.Err() != nil {
		t.Fatal("the queue was not sent")
	}
}

func TestOrderIsKeptWhileContainerdIsAway(t *testing.T) {
	g := newGate()
	p := New("ns", g)
	for _, id := range []string{"a", "b", "c"} {
		p.Publish(TopicExit, &eventsapi.TaskExit{ContainerID: id})
	}
	<-g.change // it has been tried in vain
	g.set(true)
	closeWithin(t, p)
	if got := strings.Join(g.got, ","); got != "/tasks/exit a,/tasks/exit b,/tasks/exit c" {
		t.Errorf("got %s", got)
	}
	if g.tries < 4 {
		t.Errorf("%d tries: containerd was never away", g.tries)
	}
}

func TestFullQueueKeepsExits(t *testing.T) {
	g := newGate()
	p := New("ns", g)
	p.Publish(TopicStart, &eventsapi.TaskExit{ContainerID: "first"})
	p.Publish(TopicExit, &eventsapi.TaskExit{ContainerID: "early"})
	for range queueLength {
		p.Publish(TopicStart, &eventsapi.TaskExit{ContainerID: "other"})
	}
	p.mu.Lock()
	n, dropped := len(p.queue), p.dropped
	p.mu.Unlock()
	if n != queueLength || dropped != 2 {
		t.Errorf("queue of %d with %d dropped, want %d and 2", n, dropped, queueLength)
	}
	g.set(true)
	closeWithin(t, p)
	exits := 0
	for _, s := range g.got {
		if s == "/tasks/exit early" {
			exits++
		}
	}
	if exits != 1 {
		t.Errorf("the exit arrived %d times", exits)
	}
}

func TestCloseIsBounded(t *testing.T) {
	p := New("ns", newGate())
	p.Publish(TopicExit, &eventsapi.TaskExit{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p.Close(ctx) // would hang for ever
}

func TestTypeURLIsThatOfContainerd(t *testing.T) {
	a, err := Any(&eventsapi.TaskExit{ContainerID: "x"})
	if err != nil || a.TypeUrl != "containerd.events.TaskExit" {
		t.Errorf("%v %v", a, err)
	}
}
