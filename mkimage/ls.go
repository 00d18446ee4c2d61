package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"keelson/internal/visible"
	"keelson/mkimage/images"
	"keelson/mkimage/sizes"
)

func lsCommand() *cobra.Command {
	var store *string
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the images of the local store",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := images.OpenStore(*store).List()
			if err != nil {
				return err
			}
			if len(list) == 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "the store %s has no images; mkimage import puts one there\n", *store)
				return nil
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(tw, "IMAGE\tDIGEST\tSIZE")
			for _, i := range list {
				fmt.Fprintf(tw, "%s\t%.19s\t%s\n", visible.Text(i.Name), i.Digest, sizes.Human(i.Size))
			}
			return tw.Flush()
		},
	}
	store = storeFlag(cmd)
	return cmd
}
