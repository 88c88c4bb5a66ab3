//go:build !faulty

package keeper

// fault is what a program built for tests does wrong. This one does nothing.
const fault = ""
