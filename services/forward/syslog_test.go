package forward

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"keelson/services/logs"
)

func wallFixed(at time.Duration) time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 6789, time.UTC).Add(at)
}

func record(source string, stream logs.Stream, text string) logs.Record {
	return logs.Record{At: time.Second, Source: source, Stream: stream, Text: []byte(text), Priority: logs.NoPriority}
}

func TestFormat(t *testing.T) {
	kernel := record(logs.KernelLog, logs.Kernel, "EXT4-fs error")
	kernel.Priority = 3
	event := record("web", logs.Event, "exited")
	event.Priority = 4
	gap := record("web", logs.Stdout, "")
	gap.Gap, gap.Dropped, gap.DroppedBytes = true, 1204, 99
	long := record("a name with blanks and ümlauts that is longer than any name may be", logs.Stdout, "x")
	long.Continued = true
	for i, tc := range []struct {
		r    logs.Record
		want string
	}{
		{record("web", logs.Stdout, "GET /"), `<30>1 2026-01-02T03:04:06.000006Z vm web - stdout [meta sequenceId="1"] GET /`},
		{record("web", logs.Stderr, "naïve"), `<29>1 2026-01-02T03:04:06.000006Z vm web - stderr [meta sequenceId="1"] ` + "\ufeffnaïve"},
		{record("web", logs.Stdout, "\xff\x00"), `<30>1 2026-01-02T03:04:06.000006Z vm web - stdout [meta sequenceId="1"] ` + "\xff\x00"},
		{kernel, `<3>1 2026-01-02T03:04:06.000006Z vm kernel - kernel [meta sequenceId="1"] EXT4-fs error`},
		{event, `<28>1 2026-01-02T03:04:06.000006Z vm web - event [meta sequenceId="1"] exited`},
		{gap, `<30>1 2026-01-02T03:04:06.000006Z vm web - stdout [meta sequenceId="1"][keelson@32473 missedLines="1204" missedBytes="99"] ... 1204 lines are missing here`},
		{long, `<30>1 2026-01-02T03:04:06.000006Z vm a_name_with_blanks_and__mlauts_that_is_longer_th - stdout [meta sequenceId="1"][keelson@32473 continued="1"] x`},
	} {
		f := formatter{hostname: "vm", max: maxStream}
		if got := string(f.format(tc.r, wallFixed(tc.r.At))); got != tc.want {
			t.Errorf("%d: got\n%q, want\n%q", i, got, tc.want)
		}
	}
	f := formatter{max: maxStream, sequence: 1<<31 - 1}
	if got := string(f.format(record("", logs.Stdout, ""), wallFixed(0))); !strings.Contains(got, ` - - - stdout [meta sequenceId="1"] `) {
		t.Errorf("got %q", got)
	}
}

func TestMessagesAreCut(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", 10_000), strings.Repeat("ü", 5_000), strings.Repeat("\xff", 10_000)} {
		f := formatter{hostname: "vm", max: maxDatagram}
		got := f.format(record("web", logs.Stdout, text), wallFixed(0))
		m := regexp.MustCompile(`\[keelson@32473 cutBytes="(\d+)"\] `).FindSubmatchIndex(got)
		if len(got) > maxDatagram || len(got) < maxDatagram-4 || m == nil {
			t.Fatalf("%d bytes: %.200q", len(got), got)
		}
		cut, _ := strconv.Atoi(string(got[m[2]:m[3]]))
		kept := strings.TrimPrefix(string(got[m[1]:]), byteOrderMark)
		if len(kept)+cut != len(text) || !strings.HasPrefix(text, kept) || utf8.ValidString(text) && !utf8.ValidString(kept) {
			t.Errorf("kept %d bytes, says that %d of %d are cut", len(kept), cut, len(text))
		}
	}
}

func TestTargets(t *testing.T) {
	for _, tc := range []struct{ cmdline, want, wrong string }{
		{"console=ttyS0 quiet", "[]", ""},
		{"keelson.log.forward=tcp://10.0.2.2:5140,udp://log.example keelson.log.forward=unix:///run/log.sock,virtio:org.example.log",
			"[tcp://10.0.2.2:5140 udp://log.example:514 unix:///run/log.sock virtio:org.example.log]", ""},
		{"keelson.log.forward=tcp://[::1]:6514,tcp://::1,udp://[fe80::1]/", "[tcp://[::1]:6514 tcp://[::1]:514 udp://[fe80::1]:514]", ""},
		{"keelson.log.forward=tcp://a,tcp://a:514", "[tcp://a:514]", ""},
		{"keelson.log.forward=http://a,udp://b", "[udp://b:514]", `keelson.log.forward=http://a: "http" is none of the schemes: want tcp://HOST[:PORT]`},
		{"keelson.log.forward=", "[]", "it has no scheme"},
		{"keelson.log.forward=tcp:10.0.0.1", "[]", "is not followed by //"},
		{"keelson.log.forward=tcp://10.0.0.1:x", "[]", `"x" is no port`},
		{"keelson.log.forward=tcp://10.0.0.1:70000", "[]", "is no port"},
		{"keelson.log.forward=udp://:514", "[]", "it has no host"},
		{"keelson.log.forward=udp://a:b:c", "[]", "cannot be told apart"},
		{"keelson.log.forward=unix://run/log", "[]", "no absolute path"},
		{"keelson.log.forward=virtio:../../etc/passwd", "[]", "no name of a port"},
	} {
		got, wrong := Targets(tc.cmdline)
		text := ""
		if len(wrong) > 0 {
			text = fmt.Sprint(wrong)
		}
		if fmt.Sprint(got) != tc.want || (tc.wrong == "") != (text == "") || !strings.Contains(text, tc.wrong) {
			t.Errorf("%s: got %v, %s", tc.cmdline, got, text)
		}
	}
	if got, wrong := Targets(Word + "tcp://a,tcp://b,tcp://c,tcp://d,tcp://e,tcp://f,tcp://g,tcp://h,tcp://i"); len(got) != maxTargets || len(wrong) != 1 {
		t.Errorf("got %v, %v", got, wrong)
	}
}

func TestTCPFramesAndHearsTheEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := open(Target{kindTCP, l.Addr().String()}, wallFixed)
	defer s.close()
	ctx := context.Background()
	if err := s.connect(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(bound))
	for _, text := range []string{"one\nline", "two"} {
		if err := s.send(ctx, record("web", logs.Stdout, text)); err != nil {
			t.Fatal(err)
		}
	}
	s.(interface{ drain(context.Context) }).drain(ctx)
	r := bufio.NewReader(conn)
	for _, text := range []string{"one\nline", "two"} {
		head, err := r.ReadString(' ')
		n, err2 := strconv.Atoi(strings.TrimSpace(head))
		message := make([]byte, n)
		if _, err3 := io.ReadFull(r, message); err != nil || err2 != nil || err3 != nil || !strings.HasPrefix(string(message), "<30>1 ") || !strings.HasSuffix(string(message), "] "+text) {
			t.Fatalf("%q %q: %v, %v, %v", head, message, err, err2, err3)
		}
	}
	conn.Close()
	for end := time.Now().Add(bound); s.send(ctx, record("web", logs.Stdout, "x")) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not notice that the receiver has gone")
		}
	}
	if err := s.connect(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.send(ctx, record("web", logs.Stdout, "again")); err != nil {
		t.Errorf("after connecting again: %v", err)
	}
}

func TestDatagrams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, tc := range []struct {
		network, address string
	}{{"udp", "127.0.0.1:0"}, {"unixgram", path}} {
		c, err := net.ListenPacket(tc.network, tc.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		target := Target{kindUDP, c.LocalAddr().String()}
		if tc.network == "unixgram" {
			target.Kind = kindUnix
		}
		s := open(target, wallFixed)
		defer s.close()
		if err := s.connect(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := s.send(context.Background(), record("web", logs.Stdout, "hello")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		c.SetDeadline(time.Now().Add(bound))
		if n, _, err := c.ReadFrom(b); err != nil || !strings.HasPrefix(string(b[:n]), "<30>1 ") || !strings.HasSuffix(string(b[:n]), "] hello") {
			t.Errorf("%s: %q, %v", tc.network, b[:n], err)
		}
	}
}

// memlogd stands for one that an image brings.
func memlogd(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	os.Remove(path)
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(bound))
	return c
}

// handed receives the next stream: its name and what it is read from.
func handed(t *testing.T, c *net.UnixConn) (string, *os.File) {
	t.Helper()
	name, rights := make([]byte, 512), make([]byte, 64)
	n, m, _, _, err := c.ReadMsgUnix(name, rights)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:m])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %v", messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}
	f := os.NewFile(uintptr(fds[0]), "")
	t.Cleanup(func() { f.Close() })
	return string(name[:n]), f
}

func TestMemlogdOfTheImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ctx := context.Background()
	x := open(Memlogd(path), nil)
	defer x.close()
	if err := x.connect(ctx); err == nil {
		t.Fatal("connected to nobody")
	}
	c := memlogd(t, path)
	if err := x.connect(ctx); err != nil {
		t.Fatal(err)
	}
	gap := record("web", logs.Stderr, "after it")
	gap.Dropped = 3
	for _, r := range []logs.Record{record("web", logs.Stdout, "out"), record("web", logs.Stdout, "more"), gap} {
		if err := x.send(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	name, f := handed(t, c)
	name2, f2 := handed(t, c)
	b := make([]byte, 100)
	n, _ := f.Read(b)
	if name != "web.out" || string(b[:n]) != "out\nmore\n" {
		t.Errorf("%s: %q", name, b[:n])
	}
	if n, _ := f2.Read(b); name2 != "web" || string(b[:n]) != "... 3 lines are missing here\nafter it\n" {
		t.Errorf("%s: %q", name2, b[:n])
	}
	f.Close() // it has died
	if err := x.send(ctx, record("web", logs.Stdout, "lost")); err == nil {
		t.Error("nobody reads, and nothing is said")
	}
	c.Close()
	c = memlogd(t, path)
	if err := x.connect(ctx); err != nil {
		t.Fatal(err)
	}
	if err := x.send(ctx, record("web", logs.Stdout, "again")); err != nil {
		t.Fatal(err)
	}
	name, f = handed(t, c)
	if n, _ := f.Read(b); name != "web.out" || string(b[:n]) != "again\n" {
		t.Errorf("%s: %q", name, b[:n])
	}
}

// A link that somebody put in the place of a receiver's socket is not followed.
func TestALinkInThePlaceOfASocket(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: real, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{kindUnix, kindMemlogd} {
		x := open(Target{kind, link}, func(at time.Duration) time.Time { return time.Unix(0, 0).Add(at) })
		if err := x.connect(t.Context()); err == nil || !strings.Contains(err.Error(), link+" is a symbolic link") {
			t.Errorf("%s: %v", kind, err)
		}
		x.close()
		x = open(Target{kind, real}, func(at time.Duration) time.Time { return time.Unix(0, 0).Add(at) })
		if err := x.connect(t.Context()); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		x.close()
	}
	must := open(Target{kindUnix, filepath.Join(dir, "none")}, nil).connect(t.Context())
	if must == nil || !strings.Contains(must.Error(), filepath.Join(dir, "none")) {
		t.Errorf("no socket: %v", must)
	}
}
