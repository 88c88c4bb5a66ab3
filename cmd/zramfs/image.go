package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

func saveCommand() *cobra.Command {
	var o keeper.SaveOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "save MOUNTPOINT FILE",
		Short: "save what a disk holds into a file",
		Long: "save writes every page that a disk holds into FILE, compressed as it is, with a checksum for each page and one for the " +
			"whole. FILE must not exist; it gets its name when it is complete and on stable storage, and its mode is 0600. What " +
			"interrupts a save leaves nothing behind. A worker that dies meanwhile does no harm.\n\n" +
			"The disk keeps serving. A save is refused while the disk can be written: open for writing, behind a loop device, " +
			"swap; and one that finds at its end that the disk was written after all keeps nothing. With --live both are " +
			"allowed: then each page is whole, and as it was at some time during the save, but no two of them need be of the same " +
			"time. That suits only who can repair what is in it.\n\n" +
			"Pages that cannot be read are noted as lost, the others saved, and the exit code is 10.",
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			p := newProgress(cmd, false, func(done, total int64) string {
				return fmt.Sprintf("%d of %d pages saved", done, total)
			})
			o.Progress = p.tell
			s, err := keeper.Save(ctx, args[0], args[1], o)
			p.end()
			return reportImage(cmd, s, args[1], asJSON, err)
		},
	}
	cmd.Flags().IntVar(&o.Device, "device", 0, deviceHelp)
	cmd.Flags().BoolVar(&o.Live, "live", false, "save although the disk may be written meanwhile")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func restoreCommand() *cobra.Command {
	var o keeper.RestoreOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "restore MOUNTPOINT FILE",
		Short: "write a saved disk to a disk",
		Long: "restore verifies all of FILE, which zramfs save wrote, and then writes its pages to a disk of the same size or a larger one, " +
			"with whatever algorithm that has; a device without a size gets that of the image. Pages that FILE does not have are " +
			"empty afterwards.\n\n" +
			"The disk must not be in use, and must be empty unless --overwrite is given. What interrupts a restore leaves an empty " +
			"disk; only where the command is killed the disk holds a part, and the next restore needs --overwrite.",
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			p := newProgress(cmd, false, func(done, total int64) string {
				return fmt.Sprintf("%d %% restored", 100*done/max(total, 1))
			})
			o.Progress = p.tell
			s, err := keeper.Restore(ctx, args[0], args[1], o)
			p.end()
			return reportImage(cmd, s, args[1], asJSON, err)
		},
	}
	cmd.Flags().IntVar(&o.Device, "device", 0, deviceHelp)
	cmd.Flags().BoolVar(&o.Overwrite, "overwrite", false, "write to a disk that holds something, which is lost")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "verify FILE, see whether it could be restored, and change nothing")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// reportImage says what a save or restore did.
func reportImage(cmd *cobra.Command, s keeper.Saved, file string, asJSON bool, err error) error {
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(cmd, s)
	} else {
		_, err = fmt.Fprint(cmd.OutOrStdout(), s.Text(file))
	}
	return errors.Join(err, s.Whole())
}
