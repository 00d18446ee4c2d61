package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"keelson/mkimage/tree"
)

// size is a flag of bytes, such as 512M or 16G.
type size int64

// String implements pflag.Value.
func (s *size) String() string {
	n := int64(*s)
	for i := len(sizeUnits) - 1; i >= 0; i-- {
		if div := int64(1) << (10 * (i + 1)); n != 0 && n%div == 0 {
			return fmt.Sprintf("%d%c", n/div, sizeUnits[i])
		}
	}
	return strconv.FormatInt(n, 10)
}

// sizeUnits are each 1024 of the one before.
const sizeUnits = "KMGT"

// Set implements pflag.Value.
func (s *size) Set(text string) error {
	number, shift := text, 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte(sizeUnits, text[n-1]); i >= 0 {
			number, shift = text[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 63-shift)
	if err != nil || n <= 0 {
		return fmt.Errorf("must be bytes, or end in K, M, G or T, such as 16G")
	}
	*s = size(n << shift)
	return nil
}

// Type implements pflag.Value.
func (s *size) Type() string { return "SIZE" }

// sizeFlag adds --max-size.
func sizeFlag(cmd *cobra.Command, s *size) {
	*s = tree.DefaultMaxSize
	cmd.Flags().Var(s, "max-size", "bytes that the images may unpack to in all; more is an error")
}
