package keeper

// planner decides when the next segment is enabled. It is arithmetic: no
// clock, no files, no allocation.
//
// What it keeps up: as long as all free slots could be filled with pages that
// do not compress at all, segments are enabled early. From then on one more is
// enabled only when it is about to be needed, and only if everything that is
// enabled fits at the ratio seen, with a margin, into the room that is left,
// beside what is held back.
type planner struct {
	segment int64 // pages of a segment
	cap     int64 // pages that the store may take, whatever its limit
	ratio   ratioMeter
	pace    paceMeter
	coming  int64 // slots that are taken and whose pages the worker has not told of
}

const (
	// Of the cap, 1/heldShare is held back; of a small one more, up to heldMost
	// pages, and at least heldLeast: for zspages that are partly filled, one of each
	// class, and for data that compress worse than those before. A segment is a
	// large part of a small store.
	heldShare, smallShare = 32, 8
	heldLeast, heldMost   = 512, 768
)

// held is what is held back from plans.
func (p *planner) held(f *figures) int64 {
	limit := p.limit(f)
	return max(limit/heldShare, min(max(limit/smallShare, heldLeast), heldMost))
}

func (p *planner) limit(f *figures) int64 {
	if f.limit > 0 {
		return min(p.cap, f.limit)
	}
	return p.cap
}

// room is what the store may still take, without what is held back. It may be
// negative. What is stored now is taken to be as loose as it may become.
func (p *planner) room(f *figures) int64 {
	return p.limit(f) - p.held(f) - p.ratio.loosest(f)
}

// see takes a reading into account; used is how many slots hold something.
func (p *planner) see(f *figures, used int64) {
	p.ratio.see(f, max(p.segment/2, minSample))
	p.pace.see(f.beat, used)
	p.coming = max(used-f.pages, 0)
}

// ahead is how few free slots are soon none: those of a segment, or what is
// taken until one more can be there.
func (p *planner) ahead() int64 { return max(p.segment, paceBeats*p.pace.most) }

// enable says whether to enable one more segment, when so many slots of the
// enabled ones are free. What has been taken since the worker told its figures
// needs room as well.
func (p *planner) enable(f *figures, enabled int, free int64) bool {
	if enabled == 0 {
		return true
	}
	room, after := p.room(f), p.coming+free+p.segment
	if after <= room {
		return true // whatever comes
	}
	return free < p.ahead() && float64(after) <= float64(room)*p.ratio.careful(f)
}

// paceMeter measures how fast slots are taken, by the worker's beats.
type paceMeter struct {
	beat, used int64 // as last seen
	most       int64 // slots taken from one beat to the next, at most; fades
}

// paceBeats is how many beats it takes at most to enable a segment: the worker
// tells that it is needed, the keeper looks, swapon(2) reads the header through
// the disk; and one more, since no pace is steady.
const paceBeats = 4

func (m *paceMeter) see(beat, used int64) {
	if beat == m.beat {
		return
	}
	if m.beat != 0 {
		m.most = max(used-m.used, m.most-(m.most+7)/8)
	}
	m.beat, m.used = beat, used
}

// ratioMeter measures how many pages of data fit into a page of memory: of all
// that is stored, and of what came lately.
type ratioMeter struct {
	compressed, stored int64 // the worker's counters, as last seen
	pages, bytes       int64 // what they grew by; halved now and then, so that the past fades
}

const (
	// minSample is how many pages tell a ratio.
	minSample = 1024
	// maxRatio bounds what is believed: pages that are all the same take
	// nothing, and the next one may be different.
	maxRatio = 16
	// packing is what the memory is at least to the bytes that lie in it. Pages
	// that come one after another fill their zspages; later some go and others
	// come, and compaction, near the limit, leaves a part of that.
	packing = 17. / 16
)

// see takes a reading into account; window is how many pages count as lately.
func (m *ratioMeter) see(f *figures, window int64) {
	if f.compressed >= m.compressed && f.stored >= m.stored {
		m.pages += f.compressed - m.compressed
		m.bytes += f.stored - m.stored
	} // else they are of a new worker
	m.compressed, m.stored = f.compressed, f.stored
	for m.pages > window {
		m.pages, m.bytes = m.pages/2, m.bytes/2
	}
}

// seen is the smaller of both ratios, at least 1: what does not compress is
// stored as it is.
func (m *ratioMeter) seen(f *figures) float64 {
	if f.pages < minSample || f.used <= 0 {
		return 1
	}
	used := float64(m.loosest(f)) * pageSize
	r := float64(f.pages) * pageSize / used
	if m.pages >= minSample/4 && f.bytes > 0 {
		r = min(r, float64(m.pages)*pageSize/(float64(m.bytes)*used/float64(f.bytes)))
	}
	return min(max(r, 1), maxRatio)
}

// loosest is how many pages what is stored takes now, or may come to take.
func (m *ratioMeter) loosest(f *figures) int64 {
	packed := f.bytes - f.huge*pageSize
	return max(f.used, f.huge+int64(float64(packed)*packing/pageSize))
}

// careful is the ratio that plans are made with: a quarter of the gain is not
// counted on.
func (m *ratioMeter) careful(f *figures) float64 { return 1 + (m.seen(f)-1)*3/4 }
