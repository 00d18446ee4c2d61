package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"keelson/mkimage/assemble"
	"keelson/mkimage/output"
)

// stubs are where distributions have the program that begins a unified kernel image.
var stubs = []string{
	"/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
	"/usr/lib/gummiboot/linuxx64.efi.stub",
}

// findStub returns the stub to use: the one that was named, or the distribution's.
func findStub(named string) ([]byte, error) {
	if named != "" {
		return os.ReadFile(named)
	}
	for _, path := range stubs {
		if data, err := os.ReadFile(path); err == nil {
			return data, nil
		}
	}
	return nil, errors.New("--format efi needs the stub of systemd-boot, linuxx64.efi.stub, which is not on this machine; on Debian: apt-get install systemd-boot-efi; or name one with --efi-stub")
}

// writeEFI writes PREFIX.efi: kernel, initrd and command line as one program
// that EFI firmware starts.
func writeEFI(ctx context.Context, ui *reporter, res *assemble.Result, prefix, compress, stubFile string) ([]string, error) {
	if res.Kernel == nil {
		return nil, errors.New("--format efi: the image has no kernel (kernel.image)")
	}
	stub, err := findStub(stubFile)
	if err != nil {
		return nil, err
	}
	var initrd bytes.Buffer
	if err := writeInitrd(ctx, ui, res, prefix+".efi", compress, &initrd); err != nil {
		return nil, err
	}
	kernel, err := readAll(res.Kernel)
	if err != nil {
		return nil, err
	}
	// The kernel comes last: it may unpack itself over what lies behind it.
	program, err := output.UKI(stub, []output.Section{
		{Name: ".cmdline", Data: []byte(cmdline(res.Cmdline))},
		{Name: ".initrd", Data: initrd.Bytes()},
		{Name: ".linux", Data: kernel},
	})
	if err != nil {
		return nil, fmt.Errorf("--format efi: %w", err)
	}
	name := prefix + ".efi"
	return []string{name}, output.ToFile(name, func(w io.Writer) error {
		_, err := w.Write(program)
		return err
	})
}

func readAll(f *assemble.File) ([]byte, error) {
	rc, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

// squashfsTool makes a squashfs of a tar on its standard input, owners included,
// without being root.
const squashfsTool = "sqfstar"

// writeSquashfs writes PREFIX-squashfs.img, the root as a file system, with
// PREFIX-kernel and PREFIX-cmdline, which mounts it from the first virtio disk.
func writeSquashfs(ctx context.Context, ui *reporter, res *assemble.Result, prefix string) ([]string, error) {
	tool, err := exec.LookPath(squashfsTool)
	if err != nil {
		return nil, fmt.Errorf("--format squashfs needs %s, which is not on this machine; on Debian: apt-get install squashfs-tools", squashfsTool)
	}
	var files []string
	if res.Kernel != nil {
		if err := copyFile(prefix+"-kernel", res.Kernel); err != nil {
			return nil, err
		}
		files = append(files, prefix+"-kernel")
	}
	name := prefix + "-squashfs.img"
	temp := prefix + "-squashfs.tmp"
	defer os.Remove(temp)
	if err := os.RemoveAll(temp); err != nil {
		return nil, err
	}
	// One processor, so that the same blocks come in the same order; and no times at all: it would give the root folder the present one.
	cmd := exec.CommandContext(ctx, tool, "-quiet", "-no-progress", "-processors", "1", "-comp", "gzip", "-mkfs-time", "0", "-all-time", "0", "-root-mode", "755", temp)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SOURCE_DATE_EPOCH=") }) // it refuses both
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_, total := res.Root.Size()
	count, done := ui.bar("write "+name, total)
	writeErr := output.Tar(ctx, in, res.Root, count)
	done()
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", squashfsTool, err, bytes.TrimSpace(said.Bytes()))
	}
	if writeErr != nil {
		return nil, writeErr
	}
	if err := os.Rename(temp, name); err != nil {
		return nil, err
	}
	files = append(files, name)
	line := diskCmdline(res.Cmdline, "squashfs")
	return append(files, prefix+"-cmdline"), output.ToFile(prefix+"-cmdline", func(w io.Writer) error {
		_, err := io.WriteString(w, line)
		return err
	})
}
