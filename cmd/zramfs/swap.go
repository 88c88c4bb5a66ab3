package main

import (
	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

const defaultName = "zram0"

func swapOnCommand() *cobra.Command {
	var c keeper.SwapConfig
	var asJSON bool
	size := sizeFlag{parse: keeper.ParseSize}
	limit := sizeFlag{parse: keeper.ParseLimit}
	cmd := &cobra.Command{
		Use:   "swapon",
		Short: "make a disk and swap on it",
		Long: "swapon mounts a disk on " + keeper.RunDir + "/NAME, attaches a loop device, makes it swap and enables it with " +
			"discard. If a step fails, the steps before it are undone. Given twice, it finds everything done.",
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Size, c.MemLimit = size.bytes, limit.bytes
			device, warnings, err := keeper.SwapOn(c)
			if err != nil {
				return err
			}
			warn(cmd, warnings)
			return printDevice(cmd, device, asJSON)
		},
	}
	f := cmd.Flags()
	f.Var(&size, "size", "size of the disk (default: half of the memory, at most 4G)")
	f.IntVar(&c.Priority, "priority", 100, "swap priority, 0 to 32767")
	f.StringVar(&c.Algorithm, "algorithm", "lz4", algorithmHelp)
	f.Var(&limit, "mem-limit", memLimitHelp)
	f.StringVar(&c.Name, "name", defaultName, "name of the mount under "+keeper.RunDir)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func swapOffCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "swapoff",
		Short: "undo swapon",
		Long:  "swapoff brings every page back to memory, detaches the loop device and ends the mount.",
		Args:  arguments(0, 0),
		RunE:  func(*cobra.Command, []string) error { return keeper.SwapOff(name) },
	}
	cmd.Flags().StringVar(&name, "name", defaultName, "name of the mount under "+keeper.RunDir)
	return cmd
}
