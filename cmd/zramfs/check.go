package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

func checkCommand() *cobra.Command {
	var id int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check MOUNTPOINT",
		Short: "look for damage in the disks of a mount",
		Long: "check reads every page of every disk of a mount, verifies its checksum, and compares all tables with each " +
			"other. It changes nothing. It prints how many pages there are of each kind, what is damaged, and what to do; the exit " +
			"code is 10 if anything is.\n\n" +
			"I/O on a disk waits until its check is done, about a second for each gibibyte that is stored. Do not check a " +
			"disk that is swap while the machine is short of memory. Damaged pages are found without it, too: when they are " +
			"read, and after each recovery of the worker; zramfs/integrity_stat counts them.",
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := keeper.Check(args[0], id)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd, all)
			} else {
				for _, c := range all {
					_, e := fmt.Fprint(cmd.OutOrStdout(), c.Text())
					err = errors.Join(err, e)
				}
			}
			return errors.Join(err, keeper.Damaged(all))
		},
	}
	cmd.Flags().IntVar(&id, "device", -1, deviceHelp+"; all of them by default")
	cmd.Flags().Lookup("device").DefValue = ""
	jsonFlag(cmd, &asJSON)
	return cmd
}
