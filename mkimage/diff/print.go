package diff

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"keelson/internal/visible"
	"keelson/mkimage/sizes"
)

// Print writes the report for people; nothing for images that are the same.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	if r.Kernel != "" {
		fmt.Fprintf(&b, "kernel: %s\n", r.Kernel)
	}
	if r.Cmdline[0] != r.Cmdline[1] {
		fmt.Fprintln(&b, "command line:")
		for i, change := range []Change{Removed, Added} {
			if r.Cmdline[i] != "" {
				fmt.Fprintf(&b, "  %-7s  %s\n", change, visible.Text(r.Cmdline[i]))
			}
		}
	}
	for _, p := range r.Parts {
		p.print(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (p *Part) print(b *strings.Builder) {
	if p.Whole != "" {
		size := p.Size
		fmt.Fprintf(b, "%s: %s, %d entries, %s\n", visible.Text(p.Name), p.Whole, len(p.Files), sizes.Human(max(size, -size)))
		return
	}
	count := map[Change]int{}
	for _, f := range p.Files {
		count[f.Change]++
	}
	var words []string
	for _, c := range []Change{Added, Removed, Changed} {
		if count[c] > 0 {
			words = append(words, fmt.Sprintf("%d %s", count[c], c))
		}
	}
	fmt.Fprintf(b, "%s: %s, %s\n", visible.Text(p.Name), strings.Join(words, ", "), cmp.Or(map[bool]string{true: "of the same size"}[p.Size == 0], signed(p.Size)))
	for _, f := range p.Files {
		fmt.Fprintf(b, "  %-7s  %s  %s\n", f.Change, visible.Text(f.Path), f.What)
		for _, line := range f.Fields {
			fmt.Fprintf(b, "             %s\n", line)
		}
	}
}
