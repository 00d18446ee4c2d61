package notify

import "time"

// A service may send perSecond messages a second, and as many at once.
const perSecond = 100

// bucket says when a service has sent more than it may. It reads no clock.
type bucket struct {
	left   float64 // messages that may come at once
	filled time.Time
}

func newBucket(now time.Time) *bucket { return &bucket{left: perSecond, filled: now} }

// take counts one message and returns how long to wait before the next is read.
func (b *bucket) take(now time.Time) time.Duration {
	b.left = min(b.left+now.Sub(b.filled).Seconds()*perSecond, perSecond) - 1
	b.filled = now
	if b.left >= 0 {
		return 0
	}
	return time.Duration(-b.left / perSecond * float64(time.Second))
}
