package main

import "github.com/zramfs/zramfs/internal/keeper"

// processes are what the program starts itself as, by its first argument; the
// second is for ps. They have no use for the commands, which take memory that
// a process of a small machine's swap should not have.
func process(args []string) (run func() error, ok bool) {
	if len(args) < 2 {
		return nil, false
	}
	switch args[1] {
	case "keeper": // what mount starts
		return keeper.RunKeeper, true
	case "worker": // what a keeper starts
		return keeper.RunWorker, true
	}
	return nil, false
}
