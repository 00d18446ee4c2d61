package hold

import (
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// pair is two Holds of one pair, as two supervisors one after the other have them.
func pair(t *testing.T) (first, second *Hold) {
	t.Helper()
	in, out, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(in); unix.Close(out) })
	for _, h := range []**Hold{&first, &second} {
		if *h, err = New(in, out); err != nil {
			t.Fatal(err)
		}
	}
	return first, second
}

func names(t *testing.T, h *Hold) []string {
	t.Helper()
	files, err := h.Files()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
		f.Close()
	}
	return names
}

// Beats go the other way, and leave what is held alone.
func TestBeats(t *testing.T) {
	first, second := pair(t)
	if Beaten(first.in) {
		t.Error("a beat before the first one")
	}
	if err := first.Put("log", 0); err != nil {
		t.Fatal(err)
	}
	for range 100000 { // PID 1 does not look: none is too many
		if err := first.Beat(); err != nil {
			t.Fatal(err)
		}
	}
	for rounds := 0; Beaten(first.in); rounds++ {
		if rounds > 1000 {
			t.Fatal("there is no end of them")
		}
	}
	if err := second.Beat(); err != nil || !Beaten(first.in) || Beaten(first.in) {
		t.Errorf("one beat is not one: %v", err)
	}
	if got := names(t, second); !slices.Equal(got, []string{"log"}) {
		t.Errorf("it holds %q", got)
	}
	var none *Hold
	if err := none.Beat(); err != nil {
		t.Error(err)
	}
}

func TestPipeOutlivesItsReader(t *testing.T) {
	first, second := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Put("log", int(r.Fd())); err != nil {
		t.Fatal(err)
	}
	r.Close() // the first supervisor has died
	if _, err := io.WriteString(w, "said meanwhile"); err != nil {
		t.Fatalf("the writer noticed: %v", err)
	}
	w.Close()
	files, err := second.Files()
	if err != nil || len(files) != 1 || files[0].Name != "log" {
		t.Fatalf("got %v, %v", files, err)
	}
	defer files[0].Close()
	if text, err := io.ReadAll(files[0]); err != nil || string(text) != "said meanwhile" {
		t.Errorf("got %q, %v", text, err)
	}
	if got := names(t, second); !slices.Equal(got, []string{"log"}) {
		t.Errorf("it is not held any more: %q", got)
	}
	second.Drop("log")
	if got := names(t, second); len(got) != 0 {
		t.Errorf("still held: %q", got)
	}
}

// A supervisor that died on its round leaves its marker behind and the files on
// both sides of it.
func TestDeathOnTheWayRound(t *testing.T) {
	first, second := pair(t)
	for _, name := range []string{"a", "b", "c"} {
		if err := first.Put(name, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.send(marker+"1.1", -1); err != nil {
		t.Fatal(err)
	}
	name, fd, err := first.receive()
	if err != nil || name != "a" {
		t.Fatalf("got %q, %v", name, err)
	}
	if err := first.send(name, fd); err != nil { // and here it died
		t.Fatal(err)
	}
	unix.Close(fd)
	if got := names(t, second); !slices.Equal(got, []string{"b", "c", "a"}) {
		t.Errorf("got %q", got)
	}
	if got := names(t, second); !slices.Equal(got, []string{"b", "c", "a"}) {
		t.Errorf("then got %q", got)
	}
}

func TestFullPairIsAnErrorAndKeepsWhatItHas(t *testing.T) {
	h, _ := pair(t)
	n := 0
	for ; n < 100_000; n++ {
		if err := h.Put(fmt.Sprint(n), 0); err != nil {
			break
		}
	}
	if n == 100_000 || n < 100 {
		t.Fatalf("%d files fitted", n)
	}
	h.Drop("0")                                // no room for a marker: nothing may be lost or hang
	if _, fd, err := h.receive(); err != nil { // room again
		t.Fatal(err)
	} else {
		unix.Close(fd)
	}
	got := names(t, h)
	if len(got) != n-1 || got[0] != "1" || got[n-2] != fmt.Sprint(n-1) {
		t.Errorf("held %d of %d", len(got), n-1)
	}
}

func TestNoPair(t *testing.T) {
	t.Setenv(Env, "0,1000000")
	h := FromEnv()
	if h != nil {
		t.Fatal("made one of descriptors that are none")
	}
	if err := h.Put("x", 0); err != ErrNone {
		t.Errorf("got %v", err)
	}
	h.Drop("x")
	if files, err := h.Files(); err != nil || files != nil {
		t.Errorf("got %v, %v", files, err)
	}
}
