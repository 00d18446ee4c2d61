// Package queue owns whose turn it is when many services want the same thing at
// once: to be started, or to be removed.
//
// It promises that
//   - at most as many have a turn at a time as the machine has room for;
//   - what a person asked for comes first, then first starts before restarts,
//     then those that others wait for, then the order of the image;
//   - a turn that makes no progress does not stop the others: after a while that
//     follows from how long turns take on this machine, the next one comes.
//
// It starts and stops nothing itself, and must never call those who wait while its
// lock is held.
package queue

import (
	"cmp"
	"slices"
	"time"
)

// Class is why somebody wants a turn. A lower one comes first.
type Class int

// The classes.
const (
	Asked   Class = iota // a person asked for it
	First                // on its first way up
	Restart              // it has been up, or has failed
)

// Entry is one that wants a turn.
type Entry struct {
	Name  string
	Class Class
	// Awaited is how many others wait for it, Index its place in the image.
	Awaited, Index int
}

// Limits of a turn.
const (
	// patienceMin is how long a turn lasts at least, though others wait.
	patienceMin = 10 * time.Second
	// patienceTimes is how often the longest turn of late fits into one that is taken
	// for stuck.
	patienceTimes = 4
	// patienceMax is how long a turn lasts at most, though others wait.
	patienceMax = 60 * time.Second
	// recent is how many turns patience follows.
	recent = 16
)

// Line is the queue as a state machine: it reads no clock and calls nobody.
//
//	Enter -> waiting -> Admit -> has a turn -> Leave
//	   \________________Leave_________/  \-> overdue (the next one is admitted) -> Leave
type Line struct {
	// Width is how many have a turn at a time, at least 1.
	Width int

	waiting []wait
	turns   map[string]*turn
	entered int // how many ever did
	lengths []time.Duration
}

type wait struct {
	Entry
	number int
}

type turn struct {
	began   time.Duration
	overdue bool
}

// Enter has one wait for a turn. One that waits already, or has a turn, keeps what
// it has, but for its class: what was asked for meanwhile comes first.
func (l *Line) Enter(e Entry) {
	if l.turns[e.Name] != nil {
		return
	}
	if i := slices.IndexFunc(l.waiting, func(w wait) bool { return w.Name == e.Name }); i >= 0 {
		e.Class = min(e.Class, l.waiting[i].Class)
		l.waiting[i].Entry = e
		return
	}
	l.entered++
	l.waiting = append(l.waiting, wait{e, l.entered})
}

// Leave ends a turn, or a wait for one. finished says that it did what it was for,
// in its own time.
func (l *Line) Leave(name string, now time.Duration, finished bool) {
	l.waiting = slices.DeleteFunc(l.waiting, func(w wait) bool { return w.Name == name })
	t := l.turns[name]
	if t == nil {
		return
	}
	delete(l.turns, name)
	if finished {
		l.lengths = append(l.lengths, now-t.began)
		l.lengths = l.lengths[max(0, len(l.lengths)-recent):]
	}
}

// Admit gives a turn to those whose it is now, and returns them. Turns that have
// made no progress for too long count no more.
func (l *Line) Admit(now time.Duration) (admitted []string) {
	busy := 0
	for _, t := range l.turns {
		t.overdue = t.overdue || now-t.began >= l.patience()
		if !t.overdue {
			busy++
		}
	}
	for ; busy < max(l.Width, 1) && len(l.waiting) > 0; busy++ {
		next := slices.MinFunc(l.waiting, before)
		l.waiting = slices.DeleteFunc(l.waiting, func(w wait) bool { return w.Name == next.Name })
		if l.turns == nil {
			l.turns = map[string]*turn{}
		}
		l.turns[next.Name] = &turn{began: now}
		admitted = append(admitted, next.Name)
	}
	return admitted
}

func before(a, b wait) int {
	return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(b.Awaited, a.Awaited), cmp.Compare(a.Index, b.Index), cmp.Compare(a.number, b.number))
}

// patience is how long a turn may last while others wait.
func (l *Line) patience() time.Duration {
	longest := time.Duration(0)
	for _, d := range l.lengths {
		longest = max(longest, d)
	}
	return min(max(patienceTimes*longest, patienceMin), patienceMax)
}

// Next returns when Admit has to be called although nobody enters or leaves; ok is
// false where nobody waits.
func (l *Line) Next() (at time.Duration, ok bool) {
	if len(l.waiting) == 0 {
		return 0, false
	}
	for _, t := range l.turns {
		if !t.overdue && (!ok || t.began+l.patience() < at) {
			at, ok = t.began+l.patience(), true
		}
	}
	return at, ok
}

// Has reports whether it has a turn.
func (l *Line) Has(name string) bool { return l.turns[name] != nil }

// Waiting is how many wait for a turn.
func (l *Line) Waiting() int { return len(l.waiting) }
