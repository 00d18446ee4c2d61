package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keelson/internal/visible"
	"keelson/mkimage/assemble"
	"keelson/mkimage/config"
	"keelson/mkimage/lint"
)

// lintFlags say what a build makes of what lint finds.
type lintFlags struct {
	strict, lenient bool
}

func (f *lintFlags) add(cmd *cobra.Command) {
	f.addStrict(cmd)
	cmd.Flags().BoolVar(&f.lenient, "lenient", false, "build even what cannot work, with a warning for each reason (see mkimage lint)")
	cmd.MarkFlagsMutuallyExclusive("strict", "lenient")
}

func (f *lintFlags) addStrict(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.strict, "strict", false, "take warnings for errors")
}

// warned is the error of a strict build that had warnings.
func (f lintFlags) warned(ui *reporter) error {
	if !f.strict || ui.warned() == 0 {
		return nil
	}
	return fmt.Errorf("nothing is written: %s, and --strict takes warnings for errors", count(ui.warned(), "warning"))
}

// lintImage prints what may not work in an image, and returns what cannot.
func lintImage(ui *reporter, cfg *config.Config, res *assemble.Result, formats []string, flags lintFlags) error {
	found, err := findings(cfg, res, formats)
	if err != nil {
		return err
	}
	for _, p := range lint.Problems(found, true) {
		ui.warn("%v", p)
	}
	problems := lint.Problems(found, false)
	if flags.lenient {
		for _, p := range problems {
			ui.warn("%v", p)
		}
		problems = nil
	}
	if len(problems) > 0 {
		return problems
	}
	return flags.warned(ui)
}

// findings judges an image for the formats that it is written in.
func findings(cfg *config.Config, res *assemble.Result, formats []string) ([]lint.Finding, error) {
	image := lint.Image{Config: cfg, Result: res}
	for _, f := range []string{formatSquashfs, formatExt4} {
		if slices.Contains(formats, f) {
			image.Disk = diskCmdline(res.Cmdline, diskType(f))
		}
	}
	return lint.Check(image)
}

func lintCommand() *cobra.Command {
	var flags buildFlags
	var given []string
	cmd := &cobra.Command{
		Use:   "lint [flags] IMAGE.yml...",
		Short: "Find what of an image cannot work, without writing it",
		Long: `Put an image together as build does, write nothing, and print what would fail in
the machine at every boot: programs and what they need, sources and places of binds
and mounts, settings that the kernel refuses, modules that it lacks. An error cannot
work; a warning is what something that the image does not show may make work.

Ends with 1 if there is an error, with --strict if there is a warning.`,
		Example: `  mkimage lint web.yml
  mkimage lint --strict --format kernel+ext4 web.yml`,
		Args: someFiles("an image YAML"),
		RunE: func(cmd *cobra.Command, args []string) error {
			formats, err := parseFormats(given)
			if err != nil {
				return err
			}
			cfg, err := config.LoadAll(cmd.InOrStdin(), args...)
			if err != nil {
				return err
			}
			ui := newReporter(cmd.ErrOrStderr(), true)
			res, _, done, err := assembleImage(cmd.Context(), ui, cfg, flags)
			if err != nil {
				return err
			}
			defer done()
			found, err := findings(cfg, res, formats)
			if err != nil {
				return err
			}
			var lines strings.Builder
			for _, f := range found {
				word := "error"
				if f.Warning {
					word = "warning"
				}
				fmt.Fprintf(&lines, "%s: %s\n", word, visible.Lines(f.Error()))
			}
			if _, err := fmt.Fprint(cmd.OutOrStdout(), lines.String()); err != nil {
				return err
			}
			return verdict(len(lint.Problems(found, false)), len(lint.Problems(found, true))+ui.warned(), flags.lint.strict)
		},
	}
	flags.addImages(cmd)
	flags.lint.addStrict(cmd)
	cmd.Flags().StringSliceVar(&given, "format", []string{formatKernelInitrd}, "that the image is for; of those with a root on a disk the kernel's drivers are checked as well")
	return cmd
}

// verdict is the error that lint ends with, nil for an image that is fine.
func verdict(bad, warnings int, strict bool) error {
	switch {
	case bad > 0 && warnings > 0:
		return errors.New(count(bad, "error") + ", " + count(warnings, "warning"))
	case bad > 0:
		return errors.New(count(bad, "error"))
	case warnings > 0 && strict:
		return errors.New(count(warnings, "warning") + ", and --strict takes warnings for errors")
	}
	return nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
