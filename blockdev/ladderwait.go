package blockdev

import "time"

// hold keeps room under the limit for the writes that wait for it: for as many as
// there are when it returns, whoever else begins or ends to wait meanwhile.
func (d *disk) hold() {
	for {
		n := d.account.waiters.Load()
		d.account.held.Store(ladderHeld * min(n, ladderHeldWrites))
		if d.account.waiters.Load() == n {
			return
		}
	}
}

// lendHeld lets others than those who wait have the room that is kept for
// them, until the function that it gives is called: a waiting write whose turn it
// is, or a rung that needs a little room to make much of it.
func (d *disk) lendHeld() (back func()) {
	d.account.held.Store(0)
	return d.hold
}

// limited notes whether a request waits for room under the limit.
func (d *disk) limited(r *Request, on bool) {
	switch {
	case on && !r.limited:
		d.account.waiters.Add(1)
		if r.since.IsZero() {
			d.ladder.stat.waits.Add(1)
			r.since = time.Now()
		}
	case !on && r.limited:
		d.account.waiters.Add(-1)
	}
	r.limited = on
	d.hold()
}

// endWait counts how long a request waited for room under the limit, if it did.
func (d *disk) endWait(r *Request) {
	if !r.since.IsZero() {
		d.ladder.stat.waited.Add(int64(time.Since(r.since)))
	}
}

// refuse counts that a write gets no room, and gives its answer.
func (d *disk) refuse(err error) error {
	if err == errLimit {
		d.ladder.stat.refused.Add(1)
	}
	return ErrNoSpace
}
