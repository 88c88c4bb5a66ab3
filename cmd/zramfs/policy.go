package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

// policyText is a policy on the command line, read when it is given.
type policyText struct{ text *string }

func (p policyText) Set(text string) (err error) {
	*p.text, err = keeper.ParsePolicy(text)
	return err
}

func (policyText) Type() string   { return "POLICY" }
func (policyText) String() string { return "" }

func policyFlag(cmd *cobra.Command, text *string) {
	cmd.Flags().Var(policyText{text}, "policy", "what is done to pages that nobody touches: "+strings.Join(keeper.PolicyPresets(), ", ")+
		", or a file (see zramfs policy --help) (default off)")
}

func policyCommand() *cobra.Command {
	var id int
	var explain, asJSON bool
	cmd := &cobra.Command{
		Use:   "policy MOUNTPOINT [" + strings.Join(keeper.PolicyPresets(), "|") + "|FILE]",
		Short: "say what is done to pages that nobody touches, and see why",
		Long: "policy shows or changes what a disk does by itself to pages that nobody touches. They are marked idle; later " +
			"compressed again with a stronger codec; later still, where the disk has a backing device, written back to it, under a " +
			"budget for each 24 hours. It works only while the CPUs have time, or memory is short; then younger pages will do. Where " +
			"pages come back soon after, it waits until they are older.\n\n" +
			"off does nothing. balanced touches what was idle for an hour. memory touches what was idle for some minutes, to save " +
			"memory, and with brotli instead of zstd. latency touches what was idle for hours, and writes back only what no codec helps. zramfs policy MOUNTPOINT " +
			"shows the settings of the one that is on.\n\n" +
			"FILE is TOML: a line preset = \"memory\" says what it differs from, and each other line a difference, such as " +
			"recompress = \"2m\", writeback = \"never\", budget = \"8G\", cpu = 30. Settings:\n\n" + keeper.PolicySettings(),
		Args: arguments(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				if err := keeper.SetPolicy(args[0], args[1], id); err != nil {
					return err
				}
				if !explain && !asJSON {
					return nil
				}
			}
			p, err := keeper.ReadPolicy(args[0], id)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, p)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), p.Text(explain))
			return err
		},
	}
	cmd.Flags().IntVar(&id, "device", 0, deviceHelp)
	cmd.Flags().BoolVar(&explain, "explain", false, "tell what it does now, what it waits for, and what it decided lately")
	jsonFlag(cmd, &asJSON)
	return cmd
}
