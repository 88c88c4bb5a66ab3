package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

const defaultName = "zram0"

func swapOnCommand() *cobra.Command {
	c := keeper.SwapConfig{Transport: keeper.TransportPercpu}
	var asJSON bool
	size := sizeFlag{parse: keeper.ParseSize}
	limit := sizeFlag{parse: keeper.ParseSize}
	var backingSize *sizeFlag
	cmd := &cobra.Command{
		Use:   "swapon",
		Short: "make a disk and swap on it",
		Long: "swapon mounts a disk on " + keeper.RunDir + "/NAME in up to 16 segments, attaches a loop device to each, sets what " +
			"keeps the machine safe (see zramfs doctor), makes them swap, and enables as many as data of any kind would fit into; " +
			"it prints their devices. The daemon enables the others while the store proves to have room for them, so that swap is " +
			"full before the store is. If a step fails, the steps before it are undone. Given twice, it finds everything done.\n\n" +
			"A store that is full although swap is not would stall the machine. If data stop compressing all of a sudden, writes " +
			"wait, and after a second the daemon asks the kernel to kill a process (sysrq f).",
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Size, c.MemLimit, c.Backing.Size = size.bytes, limit.bytes, backingSize.bytes
			devices, warnings, err := keeper.SwapOn(c)
			if err != nil {
				return err
			}
			warn(cmd, warnings)
			if asJSON {
				return printJSON(cmd, devices)
			}
			for _, d := range devices.Devices {
				fmt.Fprintln(cmd.OutOrStdout(), d)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.Var(&size, "size", "size of the swap (default: 3 times --mem-limit)")
	f.IntVar(&c.Priority, "priority", 100, "swap priority, 0 to 32767; the same for all segments, so that the kernel spreads its writes")
	f.StringVar(&c.Algorithm, "algorithm", "lz4", algorithmHelp)
	f.Var(&limit, "mem-limit", "most memory that compressed pages may take (default: 7/8 of what programs can have, "+
		"half of it on machines with more than a GiB)")
	backingSize = backingFlags(cmd, &c.Backing)
	policyFlag(cmd, &c.Policy)
	limitFlags(cmd, &c.Recompress, &c.Dictionary, &c.LimitPolicy)
	f.IntVar(&c.Segments, "segments", 0, "into how many parts to cut the swap, each with a loop device, at most 16 (default: by size; 1 where any data fit)")
	f.IntVar(&c.WriteBehind, "write-behind", 0, "frames for pages that are acknowledged before they are compressed; 0 is off")
	f.StringVar(&c.Transport, "transport", c.Transport, "connection to the kernel: "+strings.Join(keeper.SwapTransports(), ", ")+
		"; one that cannot be had is refused (exit code 8); with ring the death of the keeper is the end of the swap")
	enableURingFlag(cmd, &c.EnableURing)
	f.StringVar(&c.Name, "name", defaultName, "name of the mount under "+keeper.RunDir)
	f.BoolVar(&c.Force, "force", false, "go on although something is missing that keeps the machine safe")
	f.StringSliceVar(&c.Without, "without", nil, "guards to leave out, to see what they are worth; zramfs doctor names them")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func swapOffCommand() *cobra.Command {
	var c keeper.SwapOffConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "swapoff",
		Short: "undo swapon",
		Long: "swapoff brings every page back to memory, puts back what swapon changed on the machine, detaches the loop devices and " +
			"ends the mount. If memory cannot hold the pages it says how much is missing and changes nothing. If it takes long it " +
			"shows how far it is. Interrupted, it leaves as swap what is not back yet.",
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			show := newProgress(cmd, asJSON, func(done, total int64) string {
				return fmt.Sprintf("%s of %s back in memory", keeper.HumanSize(done), keeper.HumanSize(total))
			})
			c.Progress = show.tell
			err := keeper.SwapOff(ctx, c)
			show.end()
			return err
		},
	}
	cmd.Flags().StringVar(&c.Name, "name", defaultName, "name of the mount under "+keeper.RunDir)
	cmd.Flags().BoolVar(&c.Force, "force", false, "begin although memory seems not to hold what is swapped out")
	cmd.Flags().BoolVar(&asJSON, "json", false, "tell progress as a line of JSON each half second")
	return cmd
}
