package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// A build ends with what takes room; mkimage size shows the same of the YAML and of each
// format that can be read, on the standard output.
func TestSize(t *testing.T) {
	dir, store := project(t)
	yaml, out := filepath.Join(dir, "t.yml"), filepath.Join(dir, "out")
	table := func(text string) string {
		_, text, _ = strings.Cut(text, "PART ")
		text, _, _ = strings.Cut(text, "\nLARGEST")
		return text
	}
	var want string
	for _, formats := range []string{"kernel+initrd", "efi,raw-efi,iso-efi,vhd,tar"} {
		_, errs, err := mkimage(t, "build", "--offline", "--store", store, "--efi-stub", stub(t, dir), "--format", formats, "-o", out, yaml)
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = table(errs)
		}
		if got := table(errs); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", formats, got, want)
		}
	}
	for _, line := range []string{"onboot a  ", "services b  ", "services c  ", "  the files of onboot a\n", "volume v", "root", "kernel  ", "total"} {
		if !strings.Contains(want, line) {
			t.Errorf("%q is not in\n%s", line, want)
		}
	}
	built := filepath.Join(out, "t")
	for _, args := range [][]string{{"--offline", "--store", store, yaml}, {built}, {built + "-initrd.img"}, {built + ".efi"}, {built + "-efi.img"}, {built + "-efi.iso"}, {built + ".vhd"}, {built + ".tar"}} {
		printed, errs, err := mkimage(t, append([]string{"size"}, args...)...)
		if err != nil || errs != "" || table(printed) != want {
			t.Errorf("size %v: %v, %q\n%s\nwant\n%s", args, err, errs, table(printed), want)
		}
	}
	// What is not compressed by us has no such column, but sizes.
	_, errs, err := mkimage(t, "build", "--offline", "--store", store, "--format", "ext4", "-o", out, yaml)
	if err != nil || !strings.Contains(errs, "FILES ") || strings.Contains(errs, "COMPRESSED") || strings.Contains(errs, "IN RAM") || !strings.Contains(errs, "the files of onboot a") {
		t.Errorf("a root on a disk: %v\n%s", err, errs)
	}
	if _, _, err := mkimage(t, "size", "--compress", "lzma", yaml); err == nil || err.Error() != `invalid argument "lzma" for "--compress" flag: must be one of auto, lz4, zstd, gzip, none; see mkimage size --help` {
		t.Errorf("got %v", err)
	}
	if printed := must(t, "size", "--files", "0", built); strings.Contains(printed, "LARGEST") {
		t.Errorf("without files: %s", printed)
	}
}
