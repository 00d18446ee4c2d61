package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"keelson/mkimage/assemble"
	"keelson/mkimage/output"
	"keelson/mkimage/scratch"
)

// diskType is the file system of a format whose root is a disk.
func diskType(format string) string { return strings.TrimPrefix(format, "kernel+") }

// diskFile is the file that such a format writes the root to.
func diskFile(prefix, format string) string { return prefix + "-" + diskType(format) + ".img" }

// diskCmdline adds where the root is and what to run of it, as far as the user
// has not said it.
func diskCmdline(s, fstype string) string {
	return withWords(s, "root=/dev/vda", "rootfstype="+fstype, "rootwait", "ro", "init=/init")
}

// writeDisk writes the root as a file system, PREFIX-TYPE.img, with PREFIX-kernel
// and PREFIX-cmdline, which mounts it from the first virtio disk.
func writeDisk(ctx context.Context, ui *reporter, res *assemble.Result, out *output.Files, prefix, format string) ([]string, error) {
	write := func(f *os.File, count func(n int)) error { return output.Ext4(ctx, f, res.Root, count) }
	if format == formatSquashfs {
		tool, err := exec.LookPath(squashfsTool)
		if err != nil {
			return nil, fmt.Errorf("--format %s needs %s, which is not on this machine; on Debian: apt-get install squashfs-tools", format, squashfsTool)
		}
		write = func(f *os.File, count func(n int)) error { return squashfs(ctx, tool, f, res, count) }
	}
	name := diskFile(prefix, format)
	warnXattrs(ui, res, diskType(format), output.HeldOnDisk)
	return writeBeside(res, out, prefix, name, diskCmdline(res.Cmdline, diskType(format)), func(f *os.File) error {
		_, total := res.Root.Size()
		count, done := ui.bar("write "+filepath.Base(name), total-res.Root.Holes())
		defer done()
		return write(f, count)
	})
}

// squashfsTool makes a squashfs of a tar on its standard input, owners included,
// without being root.
const squashfsTool = "sqfstar"

// squashfs has the tool make what f is the name of.
func squashfs(ctx context.Context, tool string, f *os.File, res *assemble.Result, count func(n int)) error {
	// The tool makes a file that is not there.
	temp := f.Name() + ".squashfs"
	if err := scratch.Add(temp); err != nil {
		return err
	}
	defer scratch.Remove(temp)
	// One processor, so that the same blocks come in the same order; and no times at all: it would give the root
	// folder the present one.
	cmd := exec.CommandContext(ctx, tool, "-quiet", "-no-progress", "-processors", "1", "-comp", "gzip", "-mkfs-time", "0", "-all-time", "0", "-root-mode", "755", temp)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SOURCE_DATE_EPOCH=") }) // it refuses both
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	writeErr := output.DiskTar(ctx, in, res.Root, count)
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", squashfsTool, err, bytes.TrimSpace(said.Bytes()))
	}
	if writeErr != nil {
		return writeErr
	}
	if err := os.Chmod(temp, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, f.Name())
}
