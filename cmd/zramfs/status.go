package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

func statusCommand() *cobra.Command {
	var o keeper.TableOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [MOUNTPOINT...]",
		Short: "tell about the disks",
		Long: "status prints a line per disk: zramctl's columns and our own. With --json it prints a list of objects, with " +
			"every statistic by its kernel name, in bytes or counts.\n\nColumns: " + strings.Join(keeper.ColumnNames(), ", "),
		Args: arguments(0, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, failed := keeper.ReadStatus(args) // all: what can be told all the same
			if asJSON && (failed == nil || len(all) > 0) {
				return errors.Join(failed, printJSON(cmd, all))
			}
			for _, s := range all {
				for _, w := range s.Warnings {
					warn(cmd, []string{s.Mountpoint + ": " + w})
				}
			}
			table, err := keeper.Table(all, o)
			if err != nil || len(all) == 0 {
				return errors.Join(failed, err)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), table)
			return errors.Join(failed, err)
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&o.Columns, "output", "o", nil, "columns to print")
	f.BoolVarP(&o.Bytes, "bytes", "b", false, "print sizes in bytes")
	f.BoolVar(&o.Raw, "raw", false, "print without alignment")
	f.BoolVarP(&o.NoHeadings, "noheadings", "n", false, "print no headings")
	jsonFlag(cmd, &asJSON)
	return cmd
}
