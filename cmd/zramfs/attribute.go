package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

const attributeHelp = "ATTRIBUTE is a file name such as mm_stat, comp_algorithm or zramfs/stable_stat, of device zram0 unless " +
	"--device or zramN/ATTRIBUTE says otherwise."

func getCommand() *cobra.Command {
	var id int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "get MOUNTPOINT ATTRIBUTE",
		Short: "read an attribute",
		Long:  "get reads an attribute. " + attributeHelp,
		Args:  arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := keeper.Get(args[0], args[1], id)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, map[string]string{args[1]: strings.TrimSuffix(text, "\n")})
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().IntVar(&id, "device", 0, deviceHelp)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func setCommand() *cobra.Command {
	var id int
	cmd := &cobra.Command{
		Use:   "set MOUNTPOINT ATTRIBUTE VALUE",
		Short: "store a value in an attribute",
		Long:  "set stores a value in an attribute. " + attributeHelp,
		Args:  arguments(3, 3),
		RunE: func(_ *cobra.Command, args []string) error {
			return keeper.Set(args[0], args[1], args[2], id)
		},
	}
	cmd.Flags().IntVar(&id, "device", 0, deviceHelp)
	return cmd
}
