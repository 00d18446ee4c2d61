// Package task owns the way from a container folder to a running containerd
// task and back: the container's record, its task, its exit.
//
// It promises that every call has a bound, that a task's end is noticed by the
// kernel's word (a pidfd) whether containerd lives or not, and that a container
// left over from before never stands in the way of a new one. It must never
// take containerd's absence for the end of a task.
package task

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"keelson/internal/bundle"
)

// Bounds of single calls to containerd. They are generous: they are there to
// end a wait on a daemon that is stuck, not to judge a slow machine.
const (
	callTimeout   = 10 * time.Second
	createTimeout = 2 * time.Minute // a create runs the runtime, perhaps on a machine that is thrashing
)

// Client speaks to containerd. The generated API is used rather than
// containerd's client package, which would link image transfer and registries.
type Client struct {
	containers containersapi.ContainersClient
	tasks      tasksapi.TasksClient
}

// slowCall is after how long a call that has no answer yet is worth a question.
const slowCall = 5 * time.Second

// Dial makes a client of the daemon behind a unix socket. It does not wait for
// the daemon, and finds it again within 100 ms of its coming back. slow is told of
// each call that is not answered within slowCall.
func Dial(socket string, slow func()) (*Client, error) {
	conn, err := grpc.NewClient("passthrough:///"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if ctx.Value(asking{}) == nil && !strings.HasSuffix(method, "/Wait") {
				defer time.AfterFunc(slowCall, slow).Stop()
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", addr)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 100 * time.Millisecond},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithIdleTimeout(0), // a task's start must not pay for a connection
	)
	if err != nil {
		return nil, fmt.Errorf("make a client of containerd: %w", err)
	}
	return &Client{
		containers: containersapi.NewContainersClient(conn),
		tasks:      tasksapi.NewTasksClient(conn),
	}, nil
}

// asking marks the context of a call that is made for nothing but its answer.
type asking struct{}

// Ask returns nil if the daemon answers a call, whatever the answer. It asks for a task
// that there is not, for which the daemon looks at its metadata and its list of tasks.
func (c *Client) Ask(ctx context.Context) error {
	ctx = context.WithValue(namespaces.WithNamespace(ctx, bundle.DefaultNamespace), asking{}, true)
	_, err := c.tasks.Get(ctx, &tasksapi.GetRequest{ContainerID: "keelson.is-it-alive"})
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return native(err)
	}
	return nil
}

// call bounds a call and puts it into a containerd namespace.
func call(ctx context.Context, namespace string, bound time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(namespaces.WithNamespace(ctx, namespace), bound)
}

// errShimGone is in the chain of an error for a call that a shim did not answer because it
// has exited.
var errShimGone = fmt.Errorf("the shim has exited: %w", errdefs.ErrUnavailable)

// shimGone is containerd's word for that, which has no code of its own.
const shimGone = "ttrpc: closed"

// native turns a gRPC error into one that errdefs knows, with containerd's words.
func native(err error) error {
	if err == nil {
		return nil
	}
	if strings.HasSuffix(err.Error(), shimGone) {
		return errShimGone
	}
	if err = errgrpc.ToNative(err); errdefs.IsDeadlineExceeded(err) {
		return fmt.Errorf("containerd, or the shim behind it, does not answer: %w", context.DeadlineExceeded)
	}
	return err
}
