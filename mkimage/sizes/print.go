package sizes

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"keelson/internal/visible"
)

// Print writes the table for people, with so many parts and files at most.
func (t Table) Print(w io.Writer, parts, files int) error {
	var table strings.Builder
	const gap = 2
	tw := tabwriter.NewWriter(&table, 0, 0, gap, ' ', tabwriter.AlignRight) // numbers, all but the first
	head := "SIZE"
	if t.Memory {
		head = "IN RAM"
	}
	width := len("PART")
	var total, more Part
	cut := len(t.Parts)
	if cut > parts {
		cut = max(parts-1, 0)
	}
	for i, p := range t.Parts {
		sum(&total, p)
		if i < cut {
			width = max(width, len([]rune(visible.Text(p.Name))))
		} else {
			sum(&more, p)
		}
	}
	row := func(name, count, size, packed, note string) {
		fmt.Fprintf(tw, "%-*s\t%s\t%s\t", width, name, count, size)
		if t.Packed {
			fmt.Fprintf(tw, "%s\t", packed)
		}
		fmt.Fprintln(tw, note)
	}
	line := func(p Part) {
		note := ""
		if p.Of != "" {
			note = "  the files of " + visible.Text(p.Of)
		}
		row(visible.Text(p.Name), strconv.Itoa(p.Files), orDash(p.Size), orDash(p.Packed), note)
	}
	row("PART", "FILES", head, "COMPRESSED", "")
	for _, p := range t.Parts[:cut] {
		line(p)
	}
	if rest := len(t.Parts) - cut; rest > 0 {
		more.Name = fmt.Sprintf("%d more", rest)
		line(more)
	}
	total.Name = "total"
	line(total)
	if err := tw.Flush(); err != nil {
		return err
	}
	for l := range strings.Lines(table.String()) {
		fmt.Fprintln(w, strings.TrimRight(l[gap:], " \n"))
	}
	if largest := t.Largest[:max(min(len(t.Largest), files), 0)]; len(largest) > 0 {
		fmt.Fprintln(w, "\nLARGEST FILES")
		for _, f := range largest {
			fmt.Fprintf(w, "%8s  /%s\n", Human(f.Size), visible.Text(f.Path))
		}
	}
	return nil
}

func sum(to *Part, p Part) {
	to.Files += p.Files
	to.Size += p.Size
	to.Packed += p.Packed
}

// Human gives bytes in the unit a person reads.
func Human(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}

// orDash is Human, and a dash for nothing.
func orDash(n int64) string {
	if n == 0 {
		return "-"
	}
	return Human(n)
}
