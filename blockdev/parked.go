package blockdev

import (
	"sync"
	"sync/atomic"
)

// waiting holds the requests that are parked: nobody's thread waits with them.
type waiting struct {
	frame requests // for the end of a compression
	room  requests // for populated memory
	gate  requests // for the end of a check; they are outside the gate
}

// requests is a list of parked requests, oldest first, threaded through them.
type requests struct {
	mu     sync.Mutex
	first  *Request  // guarded by mu
	last   **Request // guarded by mu; where the next one is hung
	closed bool      // guarded by mu; nobody comes for what is pushed now

	n atomic.Int64 // requests in it; changed under mu
}

// push hangs a request on. False: the list is closed, and the request still
// the caller's.
func (q *requests) push(r *Request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	r.next = nil
	if q.first == nil {
		q.last = &q.first
	}
	*q.last, q.last = r, &r.next
	q.n.Add(1)
	return true
}

// count is how many requests are parked. It takes no lock: who wants to know may
// not wait for those who have it.
func (q *requests) count() int64 { return q.n.Load() }

// close lets no more requests in.
func (q *requests) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
}

// takeAll empties the list and gives its first request; next links the rest.
func (q *requests) takeAll() *Request {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.first
	q.first = nil
	q.n.Store(0)
	return r
}

// takeOne takes the oldest request, nil if there is none.
func (q *requests) takeOne() *Request {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.first
	if r != nil {
		q.first, r.next = r.next, nil
		q.n.Add(-1)
	}
	return r
}

// takeSlot takes the requests whose next page is the slot's.
func (q *requests) takeSlot(slot uint64) *Request {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.first == nil {
		return nil
	}
	var taken *Request
	keep, take := &q.first, &taken
	for r := q.first; r != nil; r = r.next {
		if uint64((r.Off+r.done)/PageSize) == slot {
			*take, take = r, &r.next
			q.n.Add(-1)
		} else {
			*keep, keep = r, &r.next
		}
	}
	*keep, *take = nil, nil
	q.last = keep
	return taken
}
