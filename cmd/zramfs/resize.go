package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

func resizeCommand() *cobra.Command {
	var id int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "resize MOUNTPOINT SIZE",
		Short: "make a disk larger or smaller while it serves",
		Long: "resize gives a disk another size, rounded up to a page, and tells the loop devices on it; what is stored stays where " +
			"it is. A file system on it is resized by its own tool: after resize if the disk grows, before if it shrinks.\n\n" +
			"A disk grows to eight times its first size, or 64 GiB if that is more. It shrinks while what lies beyond the new " +
			"end is empty: else resize names the highest page in use, changes nothing and exits with code 3. A disk of segments, as " +
			"zramfs swapon makes, keeps its size.",
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := keeper.ParseSize(args[1])
			if err != nil {
				return err
			}
			r, err := keeper.Resize(args[0], size, id)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", r.Device, keeper.HumanSize(r.Size))
			return err
		},
	}
	cmd.Flags().IntVar(&id, "device", 0, deviceHelp)
	jsonFlag(cmd, &asJSON)
	return cmd
}
