package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/zramfs/zramfs/internal/keeper"
)

// keeperCommand is the process that mount starts. Its argument is for ps.
func keeperCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "keeper MOUNTPOINT",
		Hidden: true,
		Args:   arguments(1, 1),
		RunE:   func(*cobra.Command, []string) error { return keeper.RunKeeper() },
	}
}

// workerCommand is the process that a keeper starts. Its argument is for ps.
func workerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "worker MOUNTPOINT",
		Hidden: true,
		Args:   arguments(1, 1),
		RunE:   func(*cobra.Command, []string) error { return keeper.RunWorker() },
	}
}

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY",
		Short:  "write the man pages",
		Hidden: true,
		Args:   arguments(1, 1),
		RunE:   func(_ *cobra.Command, args []string) error { return writeMan(args[0]) },
	}
}

// writeMan writes a man page per command. The date is the pages' own, so that
// they change only when the words do.
func writeMan(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	date := time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)
	header := &doc.GenManHeader{Section: "1", Date: &date, Source: "zramfs", Manual: "zramfs"}
	return doc.GenManTree(newRoot(), header, dir)
}
