//go:build faulty

package keeper

// fault is what this program does wrong, for tests: set by the linker, -X.
var fault string
