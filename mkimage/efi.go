package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"keelson/mkimage/assemble"
	"keelson/mkimage/output"
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
	switch format {
	case formatRawEFI:
		return prefix + "-efi.img"
	case formatISOEFI:
		return prefix + "-efi.iso"
	}
	return prefix + ".efi"
}

// writeEFI writes kernel, initrd and command line as one program that EFI firmware
// starts: by itself, on a disk, or on a CD.
func writeEFI(ctx context.Context, ui *reporter, res *assemble.Result, out *output.Files, prefix, format string, flags buildFlags) ([]string, error) {
	if res.Kernel == nil {
		return nil, fmt.Errorf("--format %s: the image has no kernel (kernel: image:)", format)
	}
	stub, err := findStub(format, flags.efiStub)
	if err != nil {
		return nil, err
	}
	name := efiFile(prefix, format)
	var initrd bytes.Buffer
	if err := writeInitrd(ctx, ui, res, name, flags.compress, &initrd); err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
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
		return nil, fmt.Errorf("--format %s: %w", format, err)
	}
	return []string{name}, out.Write(name, func(w *os.File) error {
		switch format {
		case formatRawEFI:
			return output.EFIDisk(w, program)
		case formatISOEFI:
			return output.EFICD(w, program)
		}
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
