package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

func upgradeCommand() *cobra.Command {
	var binary string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "upgrade MOUNTPOINT",
		Short: "replace the program of a mount that is in use",
		Long: "upgrade replaces the running program of a mount by another, without unmounting and without an I/O error: a " +
			"worker of the new program takes over from the one before, and then the keeper becomes the new program, too. " +
			"A program that is not zramfs, is older, or cannot read what is in memory is refused. If the new worker dies " +
			"within a second, or finds what it took over damaged, the program before serves again. Nothing is lost either way.",
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			say := func(line string) {
				if !asJSON {
					fmt.Fprintln(cmd.ErrOrStderr(), "zramfs: "+line)
				}
			}
			u, err := keeper.Upgrade(args[0], binary, say)
			if err != nil {
				return err
			}
			if u.KeeperKept != "" {
				warn(cmd, []string{u.KeeperKept})
			}
			if asJSON {
				return printJSON(cmd, u)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, was %s; generation %d, worker %d, keeper %d\n"+
				"pause from the end of the old worker to the first answer: %s; longest wait seen: %s\n",
				u.Mountpoint, u.Version, u.Before, u.Generation, u.Worker, u.Keeper,
				time.Duration(u.Pause)*time.Microsecond, time.Duration(u.Longest)*time.Microsecond)
			return err
		},
	}
	cmd.Flags().StringVar(&binary, "binary", "", "the new program (default: the one that runs this command)")
	jsonFlag(cmd, &asJSON)
	return cmd
}
