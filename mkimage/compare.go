package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keelson/mkimage/diff"
)

// exitError ends the program with a code, and with a message if there is an error.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// The exit codes of diff, as diff(1) has them.
const (
	exitDifferent = 1
	exitTrouble   = 2
)

func diffCommand() *cobra.Command {
	var flags buildFlags
	cmd := &cobra.Command{
		Use:   "diff [flags] A B",
		Short: "Show how two images differ: by container, file and field",
		Long: `Show how two images differ, each an image YAML or what a build wrote (a prefix, or
an initrd, tar, efi, raw-efi, iso-efi, vhd). Files are compared by contents, owner,
mode and date, config.json and runtime.json field by field. Containers are compared
by their names.

Ends with 0 if they are the same, 1 if they differ, 2 if they could not be compared.`,
		Example: `  mkimage diff old/web build/web
  mkimage diff build/web web.yml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return &exitError{exitTrouble, fmt.Errorf("mkimage diff takes two images, got %d arguments; see mkimage diff --help", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := compareImages(cmd, args, flags)
			if err == nil && !flags.quiet {
				err = report.Print(cmd.OutOrStdout())
			}
			switch {
			case err != nil:
				return &exitError{exitTrouble, err}
			case !report.Same():
				return &exitError{code: exitDifferent}
			}
			return nil
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{exitTrouble, fmt.Errorf("%w; see mkimage diff --help", err)}
	})
	flags.addImages(cmd)
	cmd.Flags().BoolVarP(&flags.quiet, "quiet", "q", false, "print nothing; the exit code is the answer")
	return cmd
}

func compareImages(cmd *cobra.Command, names []string, flags buildFlags) (*diff.Report, error) {
	a, closeA, err := openImage(cmd, flags, names[0])
	if err != nil {
		return nil, err
	}
	defer closeA()
	b, closeB, err := openImage(cmd, flags, names[1])
	if err != nil {
		return nil, err
	}
	defer closeB()
	return diff.Images(cmd.Context(), a, b)
}
