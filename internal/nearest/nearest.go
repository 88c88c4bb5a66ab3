// Package nearest finds the names that somebody may have meant. It is a leaf:
// it knows no other package.
package nearest

import (
	"cmp"
	"slices"

	"github.com/agnivade/levenshtein"
)

// Of gives up to n of the names, those that take the fewest edits first.
func Of(name string, names []string, n int) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Compare(levenshtein.ComputeDistance(name, a), levenshtein.ComputeDistance(name, b))
	})
	return names[:min(n, len(names))]
}
