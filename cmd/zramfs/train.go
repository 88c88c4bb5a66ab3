package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

func trainCommand() *cobra.Command {
	var id int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "train MOUNTPOINT FILE",
		Short: "make a dictionary from what a disk holds",
		Long: "train reads a thousand pages of a disk, drawn at random, and writes a dictionary for zstd to FILE, with which pages like " +
			"these take some percent less. Give it to another mount, for pages that are compressed again: zramfs mount --recompress " +
			"'zstd(level=7)' --dictionary FILE. Each page then takes about twice the time.\n\n" +
			"FILE holds parts of the pages and can be read by its owner alone. A disk keeps a copy of its dictionary: FILE is " +
			"needed when the disk is made, and not later.",
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := keeper.Train(args[0], args[1], id)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes, from %d pages\n", args[1], r.Bytes, r.Pages)
			return err
		},
	}
	cmd.Flags().IntVar(&id, "device", 0, deviceHelp)
	jsonFlag(cmd, &asJSON)
	return cmd
}
