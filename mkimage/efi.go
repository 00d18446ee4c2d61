package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"keelson/mkimage/assemble"
	"keelson/mkimage/output"
	"keelson/mkimage/sizes"
)

// stubs are where distributions have the program that begins a unified kernel image.
var stubs = []string{
	"/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
	"/usr/lib/gummiboot/linuxx64.efi.stub",
}

// findStub returns the stub to use: the one that was named, or the distribution's.
func findStub(format, named string) ([]byte, error) {
	if named != "" {
		data, err := os.ReadFile(named)
		if err != nil {
			return nil, fmt.Errorf("--efi-stub: %w", err)
		}
		return data, nil
	}
	for _, path := range stubs {
		if data, err := os.ReadFile(path); err == nil {
			return data, nil
		}
	}
	return nil, fmt.Errorf("--format %s needs the stub of systemd-boot, linuxx64.efi.stub, which is not on this machine; on Debian: apt-get install systemd-boot-efi; or name one with --efi-stub", format)
}

// efiFile is the file that a format with an EFI program in it writes.
func efiFile(prefix, format string) string {
	return prefix + map[string]string{
		formatEFI: ".efi", formatRawEFI: "-efi.img", formatISOEFI: "-efi.iso",
		formatQCOW2: "-efi.qcow2", formatVHD: ".vhd", formatVMDK: ".vmdk", formatGCP: ".img.tar.gz",
	}[format]
}

// diskFormats are what the formats with a disk have it in.
var diskFormats = map[string]output.DiskFormat{
	formatRawEFI: output.Raw, formatQCOW2: output.QCOW2, formatVHD: output.VHD, formatVMDK: output.VMDK, formatGCP: output.GCP,
}

// shared is what a build makes once for all of its formats.
type shared struct {
	program  []byte         // kernel, initrd and command line as one that EFI firmware starts
	compress string         // what the initrd is compressed with, once that is chosen
	room     *sizes.Counter // of the initrd
}

// writeEFI writes the program: by itself, on a disk, or on a CD.
func writeEFI(ctx context.Context, ui *reporter, res *assemble.Result, out *output.Files, prefix, format string, flags buildFlags, once *shared) ([]string, error) {
	name := efiFile(prefix, format)
	if once.program == nil {
		if err := once.makeProgram(ctx, ui, res, name, format, flags); err != nil {
			return nil, err
		}
	}
	_, done := ui.bar("write "+filepath.Base(name), 0)
	defer done()
	return []string{name}, out.Write(name, func(w *os.File) error {
		if disk, ok := diskFormats[format]; ok {
			return output.EFIDiskFile(w, once.program, disk)
		}
		if format == formatISOEFI {
			return output.EFICD(w, once.program)
		}
		_, err := w.Write(once.program)
		return err
	})
}

// makeProgram makes the program; name is the file it is for.
func (s *shared) makeProgram(ctx context.Context, ui *reporter, res *assemble.Result, name, format string, flags buildFlags) error {
	if res.Kernel == nil {
		return fmt.Errorf("--format %s: the image has no kernel (kernel: image:)", format)
	}
	stub, err := findStub(format, flags.efiStub)
	if err != nil {
		return err
	}
	var initrd bytes.Buffer
	if err := writeInitrd(ctx, ui, res, "EFI program", flags.compress, &initrd, s); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	kernel, err := readAll(res.Kernel)
	if err != nil {
		return err
	}
	// The kernel comes last: it may unpack itself over what lies behind it.
	s.program, err = output.UKI(stub, []output.Section{
		{Name: ".cmdline", Data: []byte(withWords(cmdline(res.Cmdline), flags.words...))},
		{Name: ".initrd", Data: initrd.Bytes()},
		{Name: ".linux", Data: kernel},
	})
	if err != nil {
		return fmt.Errorf("--format %s: %w", format, err)
	}
	return nil
}

func readAll(f *assemble.File) ([]byte, error) {
	rc, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}
