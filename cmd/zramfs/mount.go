package main

import (
	"encoding/json"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zramfs/zramfs/internal/keeper"
)

func jsonFlag(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "print JSON")
}

func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

const (
	algorithmHelp = "codec, with a level if wanted: lz4, lz4(level=N), zstd(level=N), ..."
	memLimitHelp  = "most memory that compressed pages may take; 0 is no limit"
)

func mountCommand() *cobra.Command {
	c := keeper.Config{Transport: keeper.TransportAuto}
	size := sizeFlag{bytes: keeper.DefaultSize, parse: keeper.ParseSize}
	limit := sizeFlag{parse: keeper.ParseLimit}
	var backingSize *sizeFlag
	cmd := &cobra.Command{
		Use:   "mount MOUNTPOINT",
		Short: "start a daemon that serves a disk",
		Long: "mount starts a daemon that serves a compressed RAM disk, MOUNTPOINT/dev/zram0, and returns when the disk " +
			"can be used. MOUNTPOINT is an empty directory.",
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Mountpoint, c.Size, c.MemLimit, c.Backing.Size = args[0], size.bytes, limit.bytes, backingSize.bytes
			warnings, err := keeper.Start(c)
			warn(cmd, warnings)
			return err
		},
	}
	f := cmd.Flags()
	f.Var(&size, "size", "size of the disk, up to 16T")
	f.StringVar(&c.Algorithm, "algorithm", "lz4", algorithmHelp)
	f.Var(&limit, "mem-limit", memLimitHelp)
	f.StringVar(&c.Stable, "stable", "snapshot", "what a write gets that meets its page under compression: "+
		strings.Join(keeper.Policies(), ", "))
	f.IntVar(&c.WriteBehind, "write-behind", 0, "frames for pages that are acknowledged before they are compressed; 0 is off")
	f.IntVar(&c.Streams, "streams", 0, "compression streams; 0 is one per CPU")
	backingSize = backingFlags(cmd, &c.Backing)
	policyFlag(cmd, &c.Policy)
	limitFlags(cmd, &c.Recompress, &c.Dictionary, &c.LimitPolicy)
	f.IntVar(&c.Segments, "segments", 0, "files dev/zram0.0, dev/zram0.1, ... over equal parts of zram0, at most 16; 0 is none")
	f.StringVar(&c.Transport, "transport", c.Transport, "connection to the kernel: "+strings.Join(keeper.Transports(), ", ")+
		"; auto is percpu for root, else gofuse; one that is named and cannot be had is refused (exit code 8, or 5 without root); "+
		"with ring the death of the keeper ends the mount")
	enableURingFlag(cmd, &c.EnableURing)
	f.BoolVar(&c.Foreground, "foreground", false, "serve in this process, until it is unmounted or gets SIGINT or SIGTERM")
	f.BoolVar(&c.AllowOther, "allow-other", false, "let other users see the tree, as its modes allow")
	f.BoolVar(&c.NoStandby, "no-standby", false, "keep no second worker ready: saves a few MiB, and a worker that dies is "+
		"replaced some milliseconds later")
	f.BoolVar(&c.Null, "null", false, "answer requests and store nothing, to measure the path to the daemon; attach, swapon, "+
		"save and restore refuse such a mount")
	// For tests.
	f.BoolVar(&c.Memfd, "memfd", false, "regions on memory files, as without a noswap tmpfs")
	f.BoolVar(&c.NoResend, "no-resend", false, "as a kernel without FUSE_NOTIFY_RESEND")
	for _, hidden := range []string{"memfd", "no-resend"} {
		if err := f.MarkHidden(hidden); err != nil {
			panic(err) // no such flag
		}
	}
	return cmd
}

// limitFlags says how pages become smaller than at first, and what is done at the
// memory limit.
func limitFlags(cmd *cobra.Command, recompress *[]string, dictionary, policy *string) {
	f := cmd.Flags()
	f.StringArrayVar(recompress, "recompress", nil, "codec to compress pages with again, as in recomp_algorithm: zstd, zstd(level=N), ...; "+
		"up to three times, for priorities 1 to 3")
	f.StringVar(dictionary, "dictionary", "", "file with a dictionary for the first --recompress, lz4 or zstd; zramfs train makes one for zstd")
	f.StringVar(policy, "limit-policy", "", "what is done for a write without room under --mem-limit: some of compact,recompress,writeback, "+
		"in the order given, and at last wait=TIME; see limit_policy (default all of them)")
}

func enableURingFlag(cmd *cobra.Command, enable *bool) {
	cmd.Flags().BoolVar(enable, "enable-uring", false, "with --transport ring: switch FUSE over io_uring on in the kernel, where it is "+
		"off (fuse.enable_uring=Y, which stays)")
}

// backingFlags says where pages are written back to.
func backingFlags(cmd *cobra.Command, c *keeper.BackingConfig) *sizeFlag {
	size := &sizeFlag{parse: keeper.ParseSize}
	f := cmd.Flags()
	f.StringVar(&c.Path, "backing", "", "block device or file that pages can be written back to; what it holds is lost")
	f.Var(size, "backing-size", "make the file of --backing, this large")
	f.BoolVar(&c.Plain, "writeback-plain", false, "write back without encryption")
	return size
}

func umountCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "umount MOUNTPOINT",
		Short: "end a mount",
		Long: "umount ends a mount and returns when its daemon is gone. In use, it says who holds it, changes nothing, " +
			"and exits with code 3. A mount whose daemon has died is cleared away.",
		Args: arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error { return keeper.Umount(args[0]) },
	}
}
