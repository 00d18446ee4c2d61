package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson/mkimage/imagetest"
)

// TestLostAttributesAreNamed, those that programs need first.
func TestLostAttributesAreNamed(t *testing.T) {
	dir, store := project(t)
	var entries []imagetest.Entry
	for i := range 25 {
		e := imagetest.File(fmt.Sprintf("f%02d", i), "x")
		e.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "1"}
		if i == 24 {
			e.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": imagetest.Capability(10), "SCHILY.xattr.system.posix_acl_access": "x"}
		}
		entries = append(entries, e)
	}
	write(t, filepath.Join(dir, "root.tar"), string(imagetest.Tar(t, entries...)))
	must(t, "import", "--store", store, "you/attrs", filepath.Join(dir, "root.tar"))
	write(t, filepath.Join(dir, "x.yml"), "kernel: {image: you/kernel, tar: none}\ninit: [you/attrs]\n")
	for format, want := range map[string]string{
		"kernel+initrd": "warning: an initrd cannot hold these extended attributes, so the files are without them: /f24 (security.capability), /f00 (user.x), ",
		"kernel+ext4":   "warning: ext4 cannot hold these extended attributes, so the files are without them: /f24 (system.posix_acl_access)\n",
		"tar":           "",
	} {
		_, said, err := mkimage(t, "build", "-q", "--offline", "--store", store, "--format", format, "-o", dir, filepath.Join(dir, "x.yml"))
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if want == "" && strings.Contains(said, "attributes") || !strings.Contains(said, want) {
			t.Errorf("%s: got %q, want %q", format, said, want)
		}
		if format == "kernel+initrd" && !strings.Contains(said, ", and 6 more; --format kernel+squashfs and kernel+ext4 hold them\n") {
			t.Errorf("got %q", said)
		}
	}
}

// TestImportReportsWhatItLeavesOut even if it is to be quiet.
func TestImportReportsWhatItLeavesOut(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "app", "app"), "x")
	l, err := net.Listen("unix", filepath.Join(dir, "app", "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, said, err := mkimage(t, "import", "-q", "--store", filepath.Join(dir, "store"), "you/app", filepath.Join(dir, "app"))
	if want := "warning: left out of the image: sockets (1), which nothing listens on in an image: /agent.sock\n"; err != nil || said != want {
		t.Errorf("got %q, %v, want %q", said, err, want)
	}
}

// TestAHoleTakesNoRoom of an import, and is refused in an initrd alone.
func TestAHoleTakesNoRoom(t *testing.T) {
	dir, store := project(t)
	log := filepath.Join(dir, "logs", "var", "log", "lastlog")
	write(t, log, "entry")
	if err := os.Truncate(log, 300<<30); err != nil {
		t.Skip(err)
	}
	must(t, "import", "--store", store, "you/logs", filepath.Join(dir, "logs"))
	write(t, filepath.Join(dir, "x.yml"), "kernel: {image: you/kernel, tar: none}\ninit: [you/logs]\n")
	_, _, err := mkimage(t, "build", "-q", "--offline", "--store", store, "-o", dir, filepath.Join(dir, "x.yml"))
	if err == nil || !strings.Contains(err.Error(), "write var/log/lastlog: has 307199 MiB of zeros") {
		t.Errorf("got %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "x-*")); err != nil || len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
