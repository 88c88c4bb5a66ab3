package stable

// Stage hands a filled frame to a stream's queue. The slot's word names the
// frame already, and the caller holds the slot's lock. behind says that the stream
// has now as many frames waiting as there are for each: its compressor does not
// keep up.
func (f *Frames) Stage(fr Frame, stream int) (behind bool) {
	f.move(fr, Filling, Staged)
	q := &f.queues[stream]
	n := q.push(fr)
	signal(q.wake)
	share := f.Share()
	if n == (share+1)/2 {
		signal(q.much)
	}
	return n >= share
}

// Share is the number of frames for each stream.
func (f *Frames) Share() int { return max(1, len(f.state)/len(f.queues)) }

// Ask says what a write gets that finds fr named by its slot's word; the
// caller holds the slot's lock. Waits and refusals are counted here; nothing
// else changes.
func (f *Frames) Ask(fr Frame, p Policy) Meeting {
	if p == Snapshot || f.State(fr) != Compressing {
		return Proceed
	}
	if p == Wait {
		f.stats.Waits.Add(1)
		return MustWait
	}
	f.stats.Refusals.Add(1)
	return MustRefuse
}

// Leave says that the slot's word, which named fr, has been replaced; the
// caller holds the slot's lock. The frame's bytes stay as they are until
// whoever has it in hand frees it. overwrite: by a write, not by a discard.
func (f *Frames) Leave(fr Frame, overwrite bool) {
	if f.State(fr) == Staged {
		f.move(fr, Staged, Cancelled)
		if overwrite {
			f.stats.Overwritten.Add(1)
		}
		return
	}
	f.move(fr, Compressing, Dropped)
	if overwrite {
		f.stats.Snapshots.Add(1)
	}
}

// Next takes the oldest frame of a stream's queue: it is in the caller's hand
// until End, Again or a false from Begin. False if the queue is empty.
func (f *Frames) Next(stream int) (Frame, bool) {
	q := &f.queues[stream]
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 {
		return 0, false
	}
	fr := q.ring[q.head]
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	return fr, true
}

// Wake is signalled when a stream's queue has work.
func (f *Frames) Wake(stream int) <-chan struct{} { return f.queues[stream].wake }

// Much is signalled when half of a stream's share waits in its queue.
func (f *Frames) Much(stream int) <-chan struct{} { return f.queues[stream].much }

// WakeAll has every stream look at its queue again.
func (f *Frames) WakeAll() {
	for i := range f.queues {
		signal(f.queues[i].wake)
	}
}

// Begin starts compressing a frame; the caller holds the lock of its slot.
// False: the slot had moved on, and the frame is free.
func (f *Frames) Begin(fr Frame) (View, bool) {
	if f.State(fr) == Cancelled {
		f.move(fr, Cancelled, Free)
		f.release(fr)
		return View{}, false
	}
	f.move(fr, Staged, Compressing)
	return Borrow(f.Bytes(fr), f.stats), true
}

// Current says, under the slot's lock, whether the frame's page is still the
// slot's: if not, the result is to be dropped.
func (f *Frames) Current(fr Frame) bool { return f.State(fr) == Compressing }

// End frees a frame after compression. The view has been released and the
// slot's word names the frame no longer; the caller holds the slot's lock.
func (f *Frames) End(fr Frame) {
	if f.State(fr) == Dropped {
		f.move(fr, Dropped, Free)
		f.stats.Dropped.Add(1)
	} else {
		f.move(fr, Compressing, Free)
	}
	f.release(fr)
}

// Again puts a frame back that could not be stored yet: staged as before, at
// the end of the stream's queue, without a wake-up. The view has been released
// and the caller holds the slot's lock. A frame that was dropped meanwhile is
// freed; then Again says false.
func (f *Frames) Again(fr Frame, stream int) bool {
	if f.State(fr) == Dropped {
		f.End(fr)
		return false
	}
	f.move(fr, Compressing, Staged)
	f.queues[stream].push(fr)
	return true
}

// push gives the number of frames that wait now.
func (q *queue) push(fr Frame) int {
	q.mu.Lock()
	if q.n == len(q.ring) {
		q.mu.Unlock()
		panic("stable: more queued frames than frames")
	}
	q.ring[(q.head+q.n)%len(q.ring)] = fr
	q.n++
	n := q.n
	q.mu.Unlock()
	return n
}

// signal wakes whoever waits for it, once, without waiting.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
