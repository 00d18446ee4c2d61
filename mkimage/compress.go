package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keelson/mkimage/assemble"
	"keelson/mkimage/bzimage"
	"keelson/mkimage/output"
)

// compression is the flag that says how an initrd is compressed: auto, or one of
// output.Compressions.
type compression string

const auto compression = "auto"

var compressions = append([]string{string(auto)}, output.Compressions...)

func (c *compression) add(cmd *cobra.Command) {
	*c = auto
	cmd.Flags().Var(c, "compress", "of the initrd: "+strings.Join(compressions, ", ")+"; auto is lz4 if the kernel is known to unpack it, else gzip")
}

func (c *compression) String() string { return string(*c) }
func (c *compression) Type() string   { return "string" }

func (c *compression) Set(s string) error {
	if !slices.Contains(compressions, s) {
		return fmt.Errorf("must be one of %s", strings.Join(compressions, ", "))
	}
	*c = compression(s)
	return nil
}

// choose returns the compression for a kernel, and why auto is not LZ4. A kernel that
// cannot unpack its initrd does not boot, so what is not known counts as no.
func (c compression) choose(kernel *assemble.File) (name, why string) {
	if c != auto {
		return string(c), ""
	}
	has, err := unpacksLZ4(kernel)
	switch {
	case err != nil:
		return "gzip", fmt.Sprintf("whether the kernel unpacks LZ4 is not known: %v; --compress lz4 takes it anyway", err)
	case !has:
		return "gzip", "the kernel does not unpack LZ4 (CONFIG_RD_LZ4), which boots faster"
	}
	return "lz4", ""
}

func unpacksLZ4(kernel *assemble.File) (bool, error) {
	if kernel == nil {
		return false, fmt.Errorf("the image has none")
	}
	rc, err := kernel.Open()
	if err != nil {
		return false, err
	}
	defer rc.Close()
	return bzimage.UnpacksLZ4(rc)
}
