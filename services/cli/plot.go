package cli

import (
	"bytes"
	"cmp"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"time"

	"keelson/internal/api"
)

// Measures of the picture, in pixels.
const (
	plotWidth = 900 // of the whole time
	plotLeft  = 20
	plotTop   = 90
	plotRow   = 22
	plotText  = 320 // for the words behind the last bar
)

// bar is one row of the picture.
type bar struct {
	name  string
	parts []part
	note  string
}

// part is a piece of a bar.
type part struct {
	from, to time.Duration
	class    string
}

// plot draws the boot.
func plot(w io.Writer, b api.Boot) error {
	bars := bars(b)
	end := b.Complete
	for _, x := range bars {
		for _, p := range x.parts {
			end = max(end, p.to)
		}
	}
	end = max(end, time.Millisecond)
	step := tick(end)
	x := func(d time.Duration) float64 { return plotLeft + plotWidth*d.Seconds()/end.Seconds() }
	height := plotTop + plotRow*len(bars) + 30
	var s bytes.Buffer
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">
<style>
text { fill: #222 } .note { fill: #444 } .grid { stroke: #ddd } .end { stroke: #c33; stroke-dasharray: 4 3 }
.step { fill: #7a8ca5 } .waiting { fill: #e3e3e3 } .starting { fill: #e0a83c } .running { fill: #8ab6e8 } .ready { fill: #69b06a } .failed { fill: #c94b4b }
</style>
<rect width="100%%" height="100%%" fill="#fff"/>
`, plotLeft+plotWidth+plotText, height)
	title := "The boot goes on"
	if b.Complete > 0 {
		title = fmt.Sprintf("Boot complete in %.3f s", b.Complete.Seconds())
	}
	fmt.Fprintf(&s, `<text x="%d" y="26" font-size="18">%s</text>`+"\n", plotLeft, title)
	left := plotLeft
	for _, l := range []struct{ class, text string }{{"step", "step"}, {"waiting", "waits"}, {"starting", "is started"}, {"running", "runs, not ready"}, {"ready", "ready"}, {"failed", "failed"}} {
		fmt.Fprintf(&s, `<rect class="%s" x="%d" y="42" width="14" height="14"/><text x="%d" y="53">%s</text>`+"\n", l.class, left, left+19, l.text)
		left += 38 + 8*len(l.text)
	}
	for at := time.Duration(0); at <= end; at += step {
		fmt.Fprintf(&s, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text class="note" x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			x(at), x(at), plotTop-8, height-22, x(at), plotTop-12, tickText(at, step))
	}
	for i, r := range bars {
		y := plotTop + plotRow*i
		last := x(0)
		for _, p := range r.parts {
			width := max(x(p.to)-x(p.from), 1)
			fmt.Fprintf(&s, `<rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d"/>`, p.class, x(p.from), y, width, plotRow-5)
			if p.class != "ready" {
				last = max(last, x(p.from)+width)
			} else {
				last = max(last, x(p.from))
			}
		}
		fmt.Fprintf(&s, `<text x="%.1f" y="%d">%s <tspan class="note">%s</tspan></text>`+"\n", last+5, y+13, html.EscapeString(r.name), html.EscapeString(r.note))
	}
	if b.Complete > 0 {
		fmt.Fprintf(&s, `<line class="end" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`+"\n", x(b.Complete), x(b.Complete), plotTop-8, height-22)
	}
	s.WriteString("</svg>\n")
	_, err := w.Write(s.Bytes())
	return err
}

// bars are the rows: the steps, then the services in the order in which they came up.
func bars(b api.Boot) []bar {
	var rows []bar
	for _, s := range spans(b) {
		note := took(s.end - s.start)
		class := "step"
		if s.note != "" {
			note, class = note+": "+s.note, "failed"
		}
		rows = append(rows, bar{s.name, []part{{s.start, s.end, class}}, note})
	}
	services := slices.Clone(b.Services)
	slices.SortStableFunc(services, func(x, y api.BootService) int {
		return cmp.Or(cmp.Compare(begun(x), begun(y)), cmp.Compare(arrived(x), arrived(y)))
	})
	for _, s := range services {
		r := bar{name: s.Name}
		marks := []struct {
			at    time.Duration
			class string
		}{{s.Waiting, "waiting"}, {s.Starting, "starting"}, {s.Running, "running"}, {s.Ready, "ready"}, {s.Failed, "failed"}}
		for i, m := range marks {
			if m.at == 0 {
				continue
			}
			to := max(b.Complete, m.at)
			for _, next := range marks[i+1:] {
				if next.at >= m.at {
					to = next.at
					break
				}
			}
			r.parts = append(r.parts, part{m.at, to, m.class})
		}
		switch from := cmp.Or(s.Waiting, s.Starting, s.Running); {
		case s.Ready > 0:
			r.note = took(s.Ready - from)
		case s.Failed > 0:
			r.note = "failed"
		}
		rows = append(rows, r)
	}
	return rows
}

// tick is a round time of which some ten fit into the whole.
func tick(whole time.Duration) time.Duration {
	raw := whole.Seconds() / 10
	unit := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, f := range []float64{1, 2, 5, 10} {
		if f*unit >= raw {
			return max(time.Duration(f*unit*float64(time.Second)), time.Microsecond)
		}
	}
	return time.Second
}

func tickText(at, step time.Duration) string {
	if step < 100*time.Millisecond {
		return fmt.Sprintf("%.2f s", at.Seconds())
	}
	return fmt.Sprintf("%.1f s", at.Seconds())
}
