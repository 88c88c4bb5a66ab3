package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

func checkCommand() *cobra.Command {
	var o keeper.CheckOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check MOUNTPOINT",
		Short: "look for damage in the disks of a mount",
		Long: "check reads every page of every disk of a mount, verifies its checksum, and compares all tables with each " +
			"other. It changes nothing. It prints how many pages there are of each kind, what is damaged, and what to do; the exit " +
			"code is 10 if anything is.\n\n" +
			"I/O goes on meanwhile. Only when all pages are read it waits, for the tables to be compared: some tens of milliseconds for each " +
			"gibibyte that is stored. With --strict it waits for everything, so that nothing changes between two looks. Damaged pages are " +
			"found without a check, too: when they are read, after each recovery of the worker, and by the scrub, which the " +
			"attribute zramfs/scrub starts; zramfs/integrity_stat counts them.",
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Rate < 0 || o.Strict && o.Rate > 0 {
				return keeper.Errorf(keeper.CodeUsage, "--rate %d: need MiB a second from 1 on, and not together with --strict", o.Rate)
			}
			p := newProgress(cmd, false, func(done, total int64) string {
				return fmt.Sprintf("%d of %d pages checked", done, total)
			})
			o.Progress = p.tell
			all, err := keeper.Check(args[0], o)
			p.end()
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
	cmd.Flags().IntVar(&o.Device, "device", -1, deviceHelp+"; all of them by default")
	cmd.Flags().Lookup("device").DefValue = ""
	cmd.Flags().Int64Var(&o.Rate, "rate", 0, "most MiB of pages to read a second; 1024 by default")
	cmd.Flags().Lookup("rate").DefValue = ""
	cmd.Flags().BoolVar(&o.Strict, "strict", false, "let I/O wait until the check is done")
	jsonFlag(cmd, &asJSON)
	return cmd
}
