package main

import (
	"fmt"
	"slices"
	"strings"

	"keelson/mkimage/assemble"
	"keelson/mkimage/tree"
)

// maxNamed bounds how many files a warning names.
const maxNamed = 20

// warnXattrs names the files whose extended attributes what is written cannot hold.
func warnXattrs(ui *reporter, res *assemble.Result, what string, held func(name string) bool) {
	lost := res.Root.Xattrs(func(name string) bool { return !held(name) })
	if len(lost) == 0 {
		return
	}
	// File capabilities first: a program that lacks them does not work.
	slices.SortStableFunc(lost, func(a, b tree.Xattr) int { return rank(a) - rank(b) })
	var names []string
	for _, x := range lost[:min(len(lost), maxNamed)] {
		names = append(names, fmt.Sprintf("/%s (%s)", x.Path, x.Name))
	}
	if more := len(lost) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	hint := ""
	if what == "an initrd" {
		hint = "; --format kernel+squashfs and kernel+ext4 hold them"
	}
	ui.warn("%s cannot hold these extended attributes, so the files are without them: %s%s", what, strings.Join(names, ", "), hint)
}

func rank(x tree.Xattr) int {
	if x.Name == "security.capability" {
		return 0
	}
	return 1
}
