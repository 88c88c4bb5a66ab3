package nearest

import (
	"slices"
	"testing"
)

func TestOf(t *testing.T) {
	names := []string{"mm_stat", "io_stat", "mem_limit", "mm_stat", "disksize"}
	for _, c := range []struct {
		name string
		n    int
		want []string
	}{
		{"mmstat", 1, []string{"mm_stat"}},
		{"mm_stat", 2, []string{"mm_stat", "io_stat"}},
		{"disk_size", 1, []string{"disksize"}},
		{"x", 9, []string{"io_stat", "mm_stat", "disksize", "mem_limit"}},
	} {
		got := Of(c.name, names, c.n)
		if c.name == "x" {
			slices.Sort(got)
			slices.Sort(c.want)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("nearest to %q: %v, want %v", c.name, got, c.want)
		}
	}
	if got := Of("a", nil, 3); len(got) != 0 {
		t.Errorf("nearest of none: %v", got)
	}
}
