package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

func doctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor MOUNTPOINT",
		Short: "check what keeps a machine alive that swaps on a disk",
		Long: "doctor checks every guard of a mount, given by its directory or by its name under " + keeper.RunDir + ", and " +
			"changes nothing. It prints a line per guard: its state, its name, and what was seen; where one is missing, why it " +
			"matters and what to do.\n\n" +
			"States: pass; fail (exit code 9); warn: missing, and this machine cannot have it; unknown: it cannot be told; " +
			"not swap: it matters only while the disk is swap.",
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := keeper.Doctor(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd, d)
			} else {
				_, err = fmt.Fprint(cmd.OutOrStdout(), d.Text())
			}
			return errors.Join(err, d.Failed())
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
