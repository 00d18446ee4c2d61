// Package events delivers the shim's events to containerd, in the order they
// happened, for as long as the shim lives.
//
// containerd may be away: it is killed, it is started again, its socket is
// gone for a while. Events then wait in a queue of bounded length and are sent
// when it is back. Publishing never blocks and never fails; when the queue is
// full the oldest event that is not an exit is dropped, then the oldest exit,
// and the number of dropped events is logged with the next success.
package events

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Topics of containerd's task events.
const (
	TopicCreate      = "/tasks/create"
	TopicStart       = "/tasks/start"
	TopicOOM         = "/tasks/oom"
	TopicExit        = "/tasks/exit"
	TopicDelete      = "/tasks/delete"
	TopicExecAdded   = "/tasks/exec-added"
	TopicExecStarted = "/tasks/exec-started"
	TopicPaused      = "/tasks/paused"
	TopicResumed     = "/tasks/resumed"
)

const (
	queueLength  = 2048
	sendTimeout  = 5 * time.Second
	firstBackoff = 10 * time.Millisecond
	lastBackoff  = time.Second
)

// A Sender delivers one event or says why it could not.
type Sender interface {
	Send(ctx context.Context, e *types.Envelope) error
	Close()
}

// A Publisher queues events and sends them one after the other.
type Publisher struct {
	namespace string
	sender    Sender

	mu      sync.Mutex // guards what follows
	queue   []*types.Envelope
	dropped int
	closing bool
	wake    chan struct{}

	stop context.CancelFunc
	done chan struct{}
}

// New starts a publisher for one containerd namespace. Close ends it.
func New(namespace string, s Sender) *Publisher {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Publisher{
		namespace: namespace,
		sender:    s,
		wake:      make(chan struct{}, 1),
		stop:      cancel,
		done:      make(chan struct{}),
	}
	go p.run(ctx)
	return p
}

// Publish queues an event that happened now.
func (p *Publisher) Publish(topic string, event proto.Message) {
	value, err := Any(event)
	if err != nil {
		slog.Error("encode event", "topic", topic, "error", err)
		return
	}
	e := &types.Envelope{
		Timestamp: timestamppb.Now(),
		Namespace: p.namespace,
		Topic:     topic,
		Event:     value,
	}
	p.mu.Lock()
	if len(p.queue) >= queueLength {
		p.drop()
	}
	p.queue = append(p.queue, e)
	p.mu.Unlock()
	p.poke()
}

// drop removes the event that will be missed least. p.mu is held.
func (p *Publisher) drop() {
	at := 0
	for i, e := range p.queue {
		if e.Topic != TopicExit {
			at = i
			break
		}
	}
	p.queue = append(p.queue[:at], p.queue[at+1:]...)
	p.dropped++
}

func (p *Publisher) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Close sends what is queued, as far as ctx allows, and ends the publisher.
func (p *Publisher) Close(ctx context.Context) {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.poke()
	select {
	case <-p.done:
	case <-ctx.Done():
		p.stop()
		<-p.done
	}
	p.stop()
	p.sender.Close()
}

func (p *Publisher) head() (e *types.Envelope, closing bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 {
		e = p.queue[0]
	}
	return e, p.closing
}

// sent removes e from the queue. While it was being sent, a full queue may
// have dropped it.
func (p *Publisher) sent(e *types.Envelope) (dropped int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && p.queue[0] == e {
		p.queue[0] = nil
		p.queue = p.queue[1:]
	}
	if len(p.queue) == 0 {
		p.queue = nil
	}
	dropped, p.dropped = p.dropped, 0
	return dropped
}

func (p *Publisher) run(ctx context.Context) {
	defer close(p.done)
	backoff := firstBackoff
	for {
		e, closing := p.head()
		if e == nil {
			if closing {
				return
			}
			select {
			case <-p.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		sctx, cancel := context.WithTimeout(ctx, sendTimeout)
		err := p.sender.Send(sctx, e)
		cancel()
		if err == nil {
			backoff = firstBackoff
			if n := p.sent(e); n > 0 {
				slog.Warn("containerd was away for too long, events were dropped", "count", n)
			}
			continue
		}
		slog.Debug("send event", "topic", e.Topic, "error", err)
		t := time.NewTimer(backoff)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// Any packs a message as containerd's typeurl does: the type is its full name
// without a host.
func Any(m proto.Message) (*anypb.Any, error) {
	value, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: value}, nil
}

// TTRPC sends events to containerd's ttrpc socket. It connects when there is
// something to send and again whenever the connection was lost.
type TTRPC struct {
	path   string
	client *ttrpc.Client
}

// NewTTRPC makes a sender for the socket at address (TTRPC_ADDRESS).
func NewTTRPC(address string) *TTRPC {
	return &TTRPC{path: strings.TrimPrefix(address, "unix://")}
}

// Send implements Sender.
func (t *TTRPC) Send(ctx context.Context, e *types.Envelope) error {
	fresh := t.client == nil
	if fresh {
		if err := t.connect(ctx); err != nil {
			return err
		}
	}
	_, err := eventsapi.NewTTRPCEventsClient(t.client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: e})
	if err == nil {
		return nil
	}
	t.Close()
	if fresh {
		return err
	}
	// The connection was an old one, to a containerd that has gone: the new
	// one may be there already.
	if cerr := t.connect(ctx); cerr != nil {
		return cerr
	}
	_, err = eventsapi.NewTTRPCEventsClient(t.client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: e})
	if err != nil {
		t.Close()
	}
	return err
}

func (t *TTRPC) connect(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", t.path)
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	t.client = ttrpc.NewClient(conn)
	return nil
}

// Close implements Sender.
func (t *TTRPC) Close() {
	if t.client != nil {
		t.client.Close()
		t.client = nil
	}
}
