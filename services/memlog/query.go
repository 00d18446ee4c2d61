package memlog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"keelson/services/logs"
)

const (
	// maxReaders bounds the clients of the query socket.
	maxReaders = 16
	// askBound is how long a client may take to say what it wants.
	askBound = 10 * time.Second
	// readBound is how long a client may leave what it was sent unread. Nobody
	// waits for it meanwhile but itself.
	readBound = 30 * time.Second
)

// accept serves readers until the socket is closed.
func (s *Server) accept(ctx context.Context) {
	for {
		conn, err := s.query.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.once("accept", "%s: %v", QuerySocket, err)
			t := time.NewTimer(receivePause)
			<-t.C
			continue
		}
		s.mu.Lock()
		full := s.readers >= maxReaders
		if !full {
			s.readers++
		}
		s.mu.Unlock()
		if full {
			_ = conn.Close()
			s.once("readers", "%s: a reader was turned away: there are %d already (said once)", QuerySocket, maxReaders)
			continue
		}
		s.ends.Go(func() {
			s.serve(ctx, conn)
			_ = conn.Close()
			s.mu.Lock()
			s.readers--
			s.mu.Unlock()
		})
	}
}

// serve answers one reader.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Ending the server ends a read of the first byte and a write as well.
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetReadDeadline(time.Now().Add(askBound))
	var want [1]byte
	if _, err := conn.Read(want[:]); err != nil {
		return
	}
	q, ok := query(want[0])
	if !ok {
		s.once("query", "%s: a reader asked for %d, which is none of 0, 1, 2 (said once)", QuerySocket, want[0])
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if q.Follow {
		// It says nothing more, so the next thing to be read is its end.
		s.ends.Go(func() {
			defer cancel()
			var rest [64]byte
			for {
				if _, err := conn.Read(rest[:]); err != nil {
					return
				}
			}
		})
	}
	out := bufio.NewWriter(bounded{conn})
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	err := s.cfg.Store.Read(ctx, q, func(r logs.Record) error {
		for _, e := range s.entries(r) {
			if err := encoder.Encode(e); err != nil {
				return err
			}
		}
		if q.Follow {
			return out.Flush()
		}
		return nil
	})
	if err == nil {
		_ = out.Flush()
	}
}

// query is what one of the three requests means: what containers wrote, and
// clients of the other socket.
func query(want byte) (q logs.Query, ok bool) {
	q.Streams = []logs.Stream{logs.Stdout, logs.Stderr}
	switch want {
	case dump:
	case follow:
		q.Follow, q.Last = true, logs.NoLines
	case dumpAndFollow:
		q.Follow = true
	default:
		return logs.Query{}, false
	}
	return q, true
}

// entry is a line as memlogd's clients read it.
type entry struct {
	Time   time.Time `json:"time"`
	Source string    `json:"source"`
	Msg    string    `json:"msg"`
}

// entries is a record in the form of the protocol, which knows no gaps: what is
// missing is a line of its own.
func (s *Server) entries(r logs.Record) []entry {
	e := entry{Time: s.cfg.Wall(r.At).UTC(), Source: sourceName(r)}
	var all []entry
	switch {
	case r.Dropped > 0:
		e.Msg = fmt.Sprintf("... %d lines are missing here", r.Dropped)
		all = append(all, e)
	case r.DroppedBytes > 0:
		e.Msg = fmt.Sprintf("... %d bytes are missing here", r.DroppedBytes)
		all = append(all, e)
	}
	if !r.Gap {
		e.Msg = string(r.Text)
		all = append(all, e)
	}
	return all
}

// bounded gives each write its time.
type bounded struct{ conn net.Conn }

func (b bounded) Write(p []byte) (int, error) {
	_ = b.conn.SetWriteDeadline(time.Now().Add(readBound))
	return b.conn.Write(p)
}
