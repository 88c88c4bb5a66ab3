// Package invariants holds the checks that are compiled in or out by a build
// tag, so that the code beside them reads the same in both builds.
//
//   - The tag `invariants` (and every race build) turns on Enabled: expensive
//     consistency checks that a production build leaves out.
//   - The tag `crashpoints` turns on CrashPoint: a test can die at the k-th
//     store to shared memory and see what the next generation makes of it.
//
// It never logs, never allocates when off, and knows no other package.
package invariants
