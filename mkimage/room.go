package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"keelson/mkimage/assemble"
	"keelson/mkimage/built"
	"keelson/mkimage/config"
	"keelson/mkimage/output"
	"keelson/mkimage/sizes"
)

// How much of the table a build shows; mkimage size shows all parts.
const (
	buildParts = 12
	buildFiles = 5
)

// showRoom reports what takes room in an image that was built. counter is that of its
// initrd; nil for one whose root is a disk or a tar.
func showRoom(ui *reporter, res *assemble.Result, counter *sizes.Counter) {
	if counter == nil {
		counter = &sizes.Counter{Disk: true}
		res.Root.Entries(counter.Add)
		for _, c := range res.Containers {
			counter.Mounts(strings.TrimPrefix(c.Bundle.Dir, "/"), c.Bundle.Runtime.Mounts)
		}
	}
	var kernel int64
	if res.Kernel != nil {
		kernel = res.Kernel.Size
	}
	var b strings.Builder
	if counter.Table(kernel).Print(&b, buildParts, buildFiles) == nil {
		ui.line("%s", strings.TrimSuffix(b.String(), "\n"))
	}
}

func sizeCommand() *cobra.Command {
	var flags buildFlags
	var files int
	cmd := &cobra.Command{
		Use:   "size [flags] IMAGE.yml...|BUILT",
		Short: "Show what takes room in an image: by container, and the largest files",
		Long: `Show what takes room in an image, as a build does at its end, with all parts.
BUILT is what a build wrote: a prefix, or a file (an initrd, tar, efi, raw-efi,
iso-efi, vhd).

In memory a file takes whole pages, and the kernel about 900 bytes for its name and
inode. Compressed is what a part adds to the initrd, where the largest comes once for
all that share it.`,
		Example: `  mkimage size web.yml
  mkimage size --files 50 build/web`,
		Args: someFiles("an image YAML or what was built"),
		RunE: func(cmd *cobra.Command, args []string) error {
			image, done, err := openImage(cmd, flags, args...)
			if err != nil {
				return err
			}
			defer done()
			var counter sizes.Counter
			compress, _ := flags.compress.choose(image.Kernel)
			if err := output.MeasuredInitrd(cmd.Context(), io.Discard, image, nil, compress, nil, &counter); err != nil {
				return err
			}
			var kernel int64
			if image.Kernel != nil {
				kernel = image.Kernel.Size
			}
			table := counter.Table(kernel)
			return table.Print(cmd.OutOrStdout(), len(table.Parts), files)
		},
	}
	flags.addImages(cmd)
	flags.compress.add(cmd)
	cmd.Flags().IntVar(&files, "files", 20, "how many of the largest files to show, 100 at most")
	return cmd
}

// openImage opens an image that was built, or puts one together from its YAMLs. done
// has to be called when it is not needed any more.
func openImage(cmd *cobra.Command, flags buildFlags, names ...string) (image *built.Image, done func(), err error) {
	if len(names) == 1 && !isYAML(names[0]) && names[0] != config.Stdin {
		image, err = built.Open(names[0])
		return image, func() {}, err
	}
	cfg, err := config.LoadAll(cmd.InOrStdin(), names...)
	if err != nil {
		return nil, nil, err
	}
	res, _, done, err := assembleImage(cmd.Context(), newReporter(cmd.ErrOrStderr(), true), cfg, flags)
	if err != nil {
		return nil, nil, err
	}
	return built.FromRoot(cmd.Context(), strings.Join(names, " "), res, cmdline(res.Cmdline)), done, nil
}
