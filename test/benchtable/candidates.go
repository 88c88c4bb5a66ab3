package main

import (
	"slices"
	"strings"
)

// Candidates are named for what they are: kernel's zram, peers, and zramfs by its
// transport: TRANSPORT is the file, TRANSPORT-loop a loop device on it,
// and with -null after the transport it is the same without a store.
const (
	zram    = "zram"
	nbdfuse = "nbdfuse"
	tmpfs   = "tmpfs-loop"

	loopSuffix = "-loop"
	nullMark   = "-null"
)

func onLoop(candidate string) bool { return strings.HasSuffix(candidate, loopSuffix) }
func isNull(candidate string) bool { return strings.Contains(candidate, nullMark) }

// ours says whether a candidate is zramfs with its store.
func ours(c string) bool { return !isNull(c) && !slices.Contains(peers(), c) }

// peers are the candidates that are not ours, in the order in which they are shown.
func peers() []string { return []string{zram, tmpfs, nbdfuse} }

// limitOf is the candidate that shows what a candidate's path allows.
func limitOf(candidate string) string {
	if t, ok := strings.CutSuffix(candidate, loopSuffix); ok {
		return t + nullMark + loopSuffix
	}
	return candidate + nullMark
}

// candidates lists those that rows show: the peers, then zramfs by name.
func candidates(rows []*row, want func(string) bool) []string {
	var names []string
	for _, r := range rows {
		for name := range r.values {
			if want(name) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	rank := func(name string) int {
		if i := slices.Index(peers(), name); i >= 0 {
			return i - len(peers())
		}
		return 0
	}
	slices.SortFunc(names, func(a, b string) int {
		if x, y := rank(a), rank(b); x != y {
			return x - y
		}
		return strings.Compare(a, b)
	})
	return names
}

// of selects rows.
func (r *results) of(set string, want func(*row) bool) []*row {
	var rows []*row
	for _, o := range r.rows {
		if o.set == set && (want == nil || want(o)) {
			rows = append(rows, o)
		}
	}
	return rows
}

func named(name string) func(*row) bool { return func(r *row) bool { return r.Name == name } }
