// Command zramfs is zram without the kernel module: a compressed RAM disk that
// a daemon serves over FUSE, for swap through a loop device or for files.
//
// This package holds flags and words on the terminal. What they do is in
// internal/keeper.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

func main() { os.Exit(run()) }

func run() int {
	do, ok := process(os.Args)
	if !ok {
		do = newRoot().Execute
	}
	err := do()
	if err == nil {
		return int(keeper.CodeOK)
	}
	fmt.Fprintln(os.Stderr, "zramfs: "+keeper.OneLine(err))
	return int(keeper.ExitCode(err))
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "zramfs",
		Short: "compressed RAM block devices without a kernel module",
		Long: "zramfs serves a compressed RAM disk over FUSE: what is written to it lies compressed in memory. " +
			"Attached to a loop device it is swap, or a disk for a file system.\n\n" +
			"The mount holds the kernel's zram files under its own root: dev/zram0, sys/block/zram0/mm_stat, " +
			"sys/class/zram-control/hot_add and the rest.\n\n" +
			"Exit codes:\n\n" + exitCodes(),
		Args:              noArguments,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return keeper.Errorf(keeper.CodeUsage, "%s (%s --help tells the flags)", err, cmd.CommandPath())
	})
	root.AddCommand(
		mountCommand(), umountCommand(), attachCommand(), detachCommand(), swapOnCommand(), swapOffCommand(),
		statusCommand(), doctorCommand(), checkCommand(), policyCommand(), resizeCommand(), trainCommand(), saveCommand(), restoreCommand(), upgradeCommand(), getCommand(), setCommand(), versionCommand(),
	)
	return root
}

// exitCodes is the table of exit codes, a line each.
func exitCodes() string {
	var b strings.Builder
	for code, help := range keeper.CodeHelp() {
		fmt.Fprintf(&b, "    %d  %s\n", code, help)
	}
	return b.String()
}

// arguments checks their number and says what was expected.
func arguments(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || high >= 0 && len(args) > high {
			return keeper.Errorf(keeper.CodeUsage, "%d arguments; usage: %s", len(args), cmd.UseLine())
		}
		return nil
	}
}

// noArguments rejects a word that is no command.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return keeper.Errorf(keeper.CodeUsage, "no command %q (%s --help tells the commands)", args[0], cmd.CommandPath())
	}
	return nil
}

// warn says on stderr what the machine did not allow.
func warn(cmd *cobra.Command, warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "zramfs: warning: "+w)
	}
}

// sizeFlag is a size on the command line; zero is "not given".
type sizeFlag struct {
	bytes int64
	parse func(string) (int64, error)
	given bool
}

func (f *sizeFlag) Set(text string) (err error) {
	f.bytes, err = f.parse(text)
	f.given = true
	return err
}
func (f *sizeFlag) Type() string { return "SIZE" }
func (f *sizeFlag) String() string {
	if f.bytes == 0 {
		return ""
	}
	return keeper.HumanSize(f.bytes)
}

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := keeper.Version()
			if asJSON {
				return printJSON(cmd, map[string]string{"version": v})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "zramfs "+v)
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
