package pool

import "testing"

// TestReserveFollowsTheLimit: what the account does not let be taken is not
// committed either, and given back when the limit falls; when it rises, and when
// there is none, the reserve is what was asked for.
func TestReserveFollowsTheLimit(t *testing.T) {
	r := newRig(t, 16, 1, 8000, onShm)
	high := r.cfg.ReserveHigh / PageSize
	used := func() int64 { return r.account.pages.Load() }
	for i := range uint32(1000) {
		r.store(0, i, PageSize)
	}
	for _, c := range []struct {
		name       string
		room, want int64
	}{
		{"plenty", 10 * high, high},
		{"as much as the reserve", high, high},
		{"little", leastTarget + 1, leastTarget + groupPages},
		{"hardly any", 3, leastTarget},
		{"none", 0, leastTarget},
		{"none for what is stored", -500, leastTarget},
		{"plenty again", 10 * high, high},
	} {
		r.account.limit.Store(used() + c.room)
		r.maintain()
		st := r.pool.Stats()
		if st.Target != c.want || st.Reserve < c.want || st.Free > c.want+max(c.want/2, groupPages)+groupPages {
			t.Errorf("%s: target %d, reserve %d, free %d; want %d", c.name, st.Target, st.Reserve, st.Free, c.want)
		}
		r.check()
	}
}

// TestFillsToTheLimit: with so small a reserve every page that the account grants
// is had, and the memory taken in the end is little more.
func TestFillsToTheLimit(t *testing.T) {
	r := newRig(t, 16, 1, 8000, onShm)
	r.account.limit.Store(2000)
	r.maintain()
	n := uint32(0)
	for ; r.put(0, n, PageSize) == nil; n++ {
		r.maintain()
	}
	if n != 2000 {
		t.Errorf("%d pages were stored under a limit of 2000", n)
	}
	if st := r.pool.Stats(); st.Committed > 2000+leastTarget+2*groupPages {
		t.Errorf("committed %d pages", st.Committed)
	}
	r.check()
}
