package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keelson/mkimage/assemble"
	"keelson/mkimage/config"
	"keelson/mkimage/images"
	"keelson/mkimage/lock"
	"keelson/mkimage/output"
	"keelson/mkimage/sizes"
)

// What --format takes, by the names that LinuxKit has for them where it has the same.
const (
	formatKernelInitrd = "kernel+initrd"
	formatTar          = "tar"
	formatSquashfs     = "kernel+squashfs"
	formatExt4         = "kernel+ext4"
	formatEFI          = "efi"
	formatRawEFI       = "raw-efi"
	formatISOEFI       = "iso-efi"
	formatQCOW2        = "qcow2-efi"
	formatVHD          = "vhd"
	formatVMDK         = "vmdk"
	formatGCP          = "gcp"
)

var formats = []string{
	formatKernelInitrd, formatSquashfs, formatExt4, formatEFI, formatRawEFI, formatISOEFI,
	formatQCOW2, formatVHD, formatVMDK, formatGCP, formatTar,
}

// formatNames are other names of formats: short ones, and LinuxKit's for a CD
// that boots into memory.
var formatNames = map[string]string{
	"squashfs": formatSquashfs, "ext4": formatExt4, "iso-efi-initrd": formatISOEFI, "qcow2": formatQCOW2,
}

// parseFormats checks what --format says, each time that it is given, and returns
// the formats' own names.
func parseFormats(list []string) ([]string, error) {
	if len(list) == 0 {
		list = []string{""}
	}
	var all []string
	besides := "" // the one that writes a command line beside it
	for _, s := range list {
		format, err := parseFormat(s)
		switch {
		case err != nil:
			return nil, err
		case slices.Contains(all, format):
			continue
		case strings.HasPrefix(format, "kernel+") && besides != "":
			return nil, fmt.Errorf("--format %s, --format %s: each writes a NAME-cmdline of its own; build one after the other, with another -o or --name", besides, format)
		case strings.HasPrefix(format, "kernel+"):
			besides = format
		}
		all = append(all, format)
	}
	return all, nil
}

// parseFormat checks one format and returns its own name.
func parseFormat(s string) (string, error) {
	if name, ok := formatNames[s]; ok {
		s = name
	}
	if !slices.Contains(formats, s) {
		return "", fmt.Errorf("--format %s: must be one of %s", s, strings.Join(formats, ", "))
	}
	return s, nil
}

// buildFlags are the flags that build and run share.
type buildFlags struct {
	store    *string
	pull     bool
	offline  bool
	insecure []string
	compress compression
	efiStub  string
	quiet    bool
	verbose  bool
	noLabels bool
	lock     string
	maxSize  size
	audit    threshold
	lint     lintFlags
	words    []string // more for the command line of an EFI program
}

// addImages adds the flags of where images come from and what of them counts.
func (f *buildFlags) addImages(cmd *cobra.Command) {
	f.store = storeFlag(cmd)
	cmd.Flags().BoolVar(&f.pull, "pull", false, "ask the registry even for images that the store has")
	cmd.Flags().BoolVar(&f.offline, "offline", false, "never ask a registry")
	cmd.Flags().StringSliceVar(&f.insecure, "insecure-registry", nil, "HOST[:PORT] of a registry that may be asked over plain HTTP, or with a certificate that nobody vouches for; may be repeated")
	sizeFlag(cmd, &f.maxSize)
	cmd.Flags().BoolVar(&f.noLabels, "no-labels", false, "ignore what images grant themselves by the label "+config.Label)
}

func (f *buildFlags) add(cmd *cobra.Command) {
	f.addImages(cmd)
	cmd.Flags().StringVar(&f.lock, "lock", "", "file that records the digest of each image the first time; an image that changes is then an error")
	f.lint.add(cmd)
	cmd.Flags().Var(&f.audit, "audit", "build nothing if a container's exposure is above this, such as 3.0 (see mkimage audit)")
	f.compress.add(cmd)
	cmd.Flags().StringVar(&f.efiStub, "efi-stub", "", "program that a .efi begins with (default: the distribution's linuxx64.efi.stub)")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "say nothing but errors")
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "list what the machine adds to each container (keelson.harden)")
}

func buildCommand() *cobra.Command {
	var flags buildFlags
	var given []string
	var dir, name string
	cmd := &cobra.Command{
		Use:   "build [flags] IMAGE.yml...",
		Short: "Build what boots from an image YAML: kernel and initrd, EFI program, disk, tar",
		Long: `Build what an image YAML describes. NAME is the YAML's name without .yml.

Several are merged: lists are appended in order, of the kernel's fields the last one
counts, NAME is that of the last file, and relative paths start at the file that has
them. - is the standard input, which needs --name.

  kernel+initrd    NAME-kernel, NAME-initrd.img, NAME-cmdline, as LinuxKit's
  kernel+squashfs  NAME-kernel, NAME-squashfs.img, NAME-cmdline: the root is a disk
  kernel+ext4      NAME-kernel, NAME-ext4.img, NAME-cmdline: likewise
  efi              NAME.efi: kernel, initrd and command line as one EFI program
  raw-efi          NAME-efi.img: a disk with that program, which firmware boots
  iso-efi          NAME-efi.iso: a CD with it, and a disk for who writes it to one
  qcow2-efi        NAME-efi.qcow2: the disk of raw-efi for QEMU, libvirt, OpenStack
  vhd              NAME.vhd: it as a fixed VHD, for Azure and Hyper-V
  vmdk             NAME.vmdk: it as a streamOptimized VMDK, for VMware and AWS
  gcp              NAME.img.tar.gz: it for Google's cloud, of whole gigabytes
  tar              NAME.tar: the root, with the kernel in /boot

An initrd's command line has rootfstype=ramfs added, which lets the root take more
than half of the memory; a disk's has what mounts it.

Each image is looked for in the store, then in its registry. A path to a tarball
(oci-archive:PATH, ./PATH) does as well. The same input gives the same bytes.

Nothing is written if a container or the kernel cannot work for a reason that is
known now (see mkimage lint); --strict refuses what may not work as well, and
--lenient neither.

What the label of an image grants a container beyond its entry in the YAML is
printed; --no-labels ignores labels, --lock FILE holds images to their digests, and
--audit 3.0 refuses an image with a container that is more exposed than that.`,
		Example: `  mkimage build web.yml
  mkimage build --format raw-efi --format tar -o build web.yml
  mkimage build --offline --compress gzip web.yml
  mkimage build --lock web.lock --audit 3.0 web.yml
  mkimage build base.yml web.yml
  generate | mkimage build --name web -`,
		Args: someFiles("an image YAML"),
		RunE: func(cmd *cobra.Command, args []string) error {
			formats, err := parseFormats(given)
			if err != nil {
				return err
			}
			if name == "" {
				if name, err = nameOf(args); err != nil {
					return err
				}
			}
			cfg, err := config.LoadAll(cmd.InOrStdin(), args...)
			if err != nil {
				return err
			}
			files, err := buildImage(cmd.Context(), cmd.ErrOrStderr(), args, cfg, filepath.Join(dir, name), formats, flags)
			if err != nil {
				return err
			}
			for _, f := range files {
				fmt.Fprintln(cmd.OutOrStdout(), f)
			}
			return nil
		},
	}
	flags.add(cmd)
	cmd.Flags().StringSliceVar(&given, "format", []string{formatKernelInitrd}, "one of "+strings.Join(formats, ", ")+"; may be repeated")
	cmd.Flags().StringVarP(&dir, "dir", "o", ".", "folder for the result, made if it is missing")
	cmd.Flags().StringVar(&name, "name", "", "name of the result (default: of the last YAML, without .yml)")
	return cmd
}

// someFiles wants image YAMLs.
func someFiles(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%s takes %s, got 0 arguments; see %s --help", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}

// nameOf is what the result of YAMLs is called.
func nameOf(files []string) (string, error) {
	last := files[len(files)-1]
	if last == config.Stdin {
		return "", errors.New("the standard input (-) has no name; give the result one with --name")
	}
	return baseName(last), nil
}

func baseName(file string) string {
	base := filepath.Base(file)
	for _, ext := range []string{".yml", ".yaml"} {
		if b, ok := strings.CutSuffix(base, ext); ok && b != "" {
			return b
		}
	}
	return base
}

// buildImage builds cfg, which was read from yamls, into files that begin with prefix,
// in each of the formats, and returns them.
func buildImage(ctx context.Context, log io.Writer, yamls []string, cfg *config.Config, prefix string, formats []string, flags buildFlags) ([]string, error) {
	if err := output.Folder(filepath.Dir(prefix)); err != nil {
		return nil, fmt.Errorf("-o: %w; name another folder", err)
	}
	ui := newReporter(log, flags.quiet)
	res, locked, done, err := assembleImage(ctx, ui, cfg, flags)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := lintImage(ui, cfg, res, formats, flags.lint); err != nil {
		return nil, err
	}
	if err := flags.audit.check(yamls, auditImage(res)); err != nil {
		return nil, err
	}
	out := &output.Files{Inputs: append(slices.Concat(res.Inputs, yamls), flags.lock, flags.efiStub)}
	defer out.Close()
	var files []string
	var once shared
	for _, format := range inOrder(formats) {
		written, err := writeFormat(ctx, ui, res, out, prefix, format, flags, &once)
		if err != nil {
			return nil, err
		}
		files = append(files, written...)
	}
	if err := flags.lint.warned(ui); err != nil {
		return nil, err
	}
	if err := out.Publish(); err != nil {
		return nil, err
	}
	showRoom(ui, res, once.room)
	for _, name := range locked.Added() {
		ui.line("%-11s %s  recorded in %s", "lock", name, flags.lock)
	}
	return files, locked.Save()
}

// assembleImage puts the root of an image together. done has to be called when the
// result is not needed any more.
func assembleImage(ctx context.Context, ui *reporter, cfg *config.Config, flags buildFlags) (res *assemble.Result, locked *lock.Lock, done func(), err error) {
	for _, host := range flags.insecure {
		if err := images.CheckRegistry(host); err != nil {
			return nil, nil, nil, fmt.Errorf("--insecure-registry: %w", err)
		}
	}
	options := assemble.Options{Config: cfg, Step: ui.bar, Log: ui.line, Warn: ui.warn, Verbose: flags.verbose, NoLabels: flags.noLabels, MaxSize: int64(flags.maxSize)}
	locked = &lock.Lock{}
	if flags.lock != "" {
		if locked, err = lock.Open(flags.lock); err != nil {
			return nil, nil, nil, err
		}
		options.Check = locked.Check
	}
	resolver := &images.Resolver{Store: images.OpenStore(*flags.store), Pull: flags.pull, Offline: flags.offline, Insecure: flags.insecure, Progress: ui.bar, MaxSize: int64(flags.maxSize)}
	options.Resolver = resolver
	if res, err = assemble.Build(ctx, options); err != nil {
		resolver.Close()
		return nil, nil, nil, err
	}
	return res, locked, func() { resolver.Close() }, nil
}

// inOrder is the formats with the tar last, as it puts the kernel into the root.
func inOrder(formats []string) []string {
	if rest := slices.DeleteFunc(slices.Clone(formats), func(f string) bool { return f == formatTar }); len(rest) < len(formats) {
		return append(rest, formatTar)
	}
	return formats
}

func writeFormat(ctx context.Context, ui *reporter, res *assemble.Result, out *output.Files, prefix, format string, flags buildFlags, once *shared) ([]string, error) {
	switch format {
	case formatTar:
		return writeTar(ctx, ui, res, out, prefix)
	case formatEFI, formatRawEFI, formatISOEFI, formatQCOW2, formatVHD, formatVMDK, formatGCP:
		return writeEFI(ctx, ui, res, out, prefix, format, flags, once)
	case formatSquashfs, formatExt4:
		return writeDisk(ctx, ui, res, out, prefix, format)
	}
	return writeKernelInitrd(ctx, ui, res, out, prefix, flags.compress, once)
}

// cmdline adds what lets a root on the initramfs take more than half of the memory,
// unless the user chose a type.
func cmdline(s string) string { return withWords(s, "rootfstype=ramfs") }

// withWords adds words to a command line that has none with the same key.
func withWords(line string, words ...string) string {
	for _, add := range words {
		key, _, _ := strings.Cut(add, "=")
		if !slices.ContainsFunc(strings.Fields(line), func(word string) bool { w, _, _ := strings.Cut(word, "="); return w == key }) {
			line += " " + add
		}
	}
	return strings.TrimSpace(line)
}

func writeKernelInitrd(ctx context.Context, ui *reporter, res *assemble.Result, out *output.Files, prefix string, compress compression, once *shared) ([]string, error) {
	name := initrdFile(prefix)
	return writeBeside(res, out, prefix, name, cmdline(res.Cmdline), func(f *os.File) error {
		return writeInitrd(ctx, ui, res, name, compress, f, once)
	})
}

// initrdFile is the file that kernel+initrd writes the root to.
func initrdFile(prefix string) string { return prefix + "-initrd.img" }

// writeBeside makes the file name of what write gives, the root, and beside it what
// boots it: PREFIX-kernel, if the image has one, and PREFIX-cmdline.
func writeBeside(res *assemble.Result, out *output.Files, prefix, name, cmdline string, write func(*os.File) error) ([]string, error) {
	var files []string
	if res.Kernel != nil {
		kernel := prefix + "-kernel"
		if err := copyFile(out, kernel, res.Kernel); err != nil {
			return nil, err
		}
		files = append(files, kernel)
	}
	if err := out.Write(name, write); err != nil {
		return nil, err
	}
	words := prefix + "-cmdline"
	err := out.Write(words, func(f *os.File) error {
		_, err := f.WriteString(cmdline)
		return err
	})
	return append(files, name, words), err
}

// writeInitrd writes the root, with the microcode in front; file is for whom it is.
func writeInitrd(ctx context.Context, ui *reporter, res *assemble.Result, file string, compress compression, w io.Writer, once *shared) error {
	warnXattrs(ui, res, "an initrd", func(string) bool { return false })
	early, err := res.Early()
	if err != nil {
		return err
	}
	defer early.Close()
	if once.compress == "" {
		var why string
		if once.compress, why = compress.choose(res.Kernel); why != "" {
			ui.line("%-11s %s: %s", "initrd", once.compress, why)
		}
	}
	_, total := res.Root.Size()
	count, done := ui.bar("write "+filepath.Base(file), total-res.Root.Holes())
	defer done()
	once.room = new(sizes.Counter)
	return output.MeasuredInitrd(ctx, w, res.Root, early, once.compress, count, once.room)
}

func writeTar(ctx context.Context, ui *reporter, res *assemble.Result, out *output.Files, prefix string) ([]string, error) {
	if err := res.PutBoot(); err != nil {
		return nil, err
	}
	name := prefix + ".tar"
	err := out.Write(name, func(w *os.File) error {
		_, total := res.Root.Size()
		count, done := ui.bar("write "+filepath.Base(name), total-res.Root.Holes())
		defer done()
		return output.Tar(ctx, w, res.Root, count)
	})
	return []string{name}, err
}

func copyFile(out *output.Files, name string, f *assemble.File) error {
	return out.Write(name, func(w *os.File) error {
		rc, err := f.Open()
		if err != nil {
			return err
		}
		defer rc.Close()
		_, err = io.Copy(w, rc)
		return err
	})
}
