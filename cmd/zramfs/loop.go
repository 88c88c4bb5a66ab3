package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

const deviceHelp = "number N of the device zramN"

func attachCommand() *cobra.Command {
	var asJSON bool
	var id int
	cmd := &cobra.Command{
		Use:   "attach MOUNTPOINT",
		Short: "put a loop device on the disk",
		Long: "attach puts a loop device on the disk, with direct I/O, blocks of 4096 bytes and stable writes, and prints its " +
			"path. A disk that has one keeps it.",
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			device, warnings, err := keeper.Attach(args[0], id)
			if err != nil {
				return err
			}
			warn(cmd, warnings)
			return printDevice(cmd, device, asJSON)
		},
	}
	cmd.Flags().IntVar(&id, "device", 0, deviceHelp)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printDevice(cmd *cobra.Command, device string, asJSON bool) error {
	if asJSON {
		return printJSON(cmd, map[string]string{"device": device})
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), device)
	return err
}

func detachCommand() *cobra.Command {
	var id int
	cmd := &cobra.Command{
		Use:   "detach MOUNTPOINT",
		Short: "take the loop device off the disk",
		Long:  "detach takes the loop device off the disk. In use (mounted, or swap), it changes nothing and exits with code 3.",
		Args:  arguments(1, 1),
		RunE:  func(_ *cobra.Command, args []string) error { return keeper.Detach(args[0], id) },
	}
	cmd.Flags().IntVar(&id, "device", 0, deviceHelp)
	return cmd
}
