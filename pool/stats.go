package pool

// Stats counts, in pages and objects. At a quiet moment the figures agree with
// each other; while I/O runs each is right at some moment.
type Stats struct {
	Pages     int64 // in zspages: mem_used_total
	Objects   int64 // live, huge pages too
	Huge      int64 // of them huge pages
	Bytes     int64 // stored, without headers: compr_data_size
	Committed int64 // pages that take memory: Pages + Free
	Free      int64 // committed pages in no zspage
	Reserve   int64 // of them in whole groups, which serve any class
	Target    int64 // of Reserve, what Maintain keeps: less where the Account has little room
	Waste     int64 // of Free, what is above that
	Commits   int64 // pages ever committed by Maintain
	Punches   int64 // pages ever given back
	Compacted int64 // pages ever freed by Compact: pages_compacted
	Moved     int64 // objects ever moved by Compact
}

// Stats sums up the slabs and the arena.
func (p *Pool) Stats() Stats {
	st := Stats{Compacted: p.compacted.Load(), Moved: p.moved.Load()}
	for i := range p.slabs {
		s := &p.slabs[i]
		s.lock()
		st.Objects += s.objects
		st.Huge += s.huge
		st.Bytes += s.bytes
		s.unlock()
	}
	a := p.arena
	a.lock()
	defer a.unlock()
	st.Pages = a.committed - a.free
	st.Committed, st.Free, st.Reserve = a.committed, a.free, a.reserve
	st.Target = a.target()
	st.Waste = max(0, a.free-st.Target)
	st.Commits, st.Punches = a.commits, a.punches
	return st
}

// ClassStat is a row of zsmalloc's debugfs file classes.
type ClassStat struct {
	Index     int                   // zsmalloc's number of the class
	Size      int                   // bytes of an object, header included
	Groups    [fullnesses + 1]int64 // zspages by objects in use: below 10 %, ... 90 %, below 100 %, 100 %
	Allocated int64                 // objects that the zspages have room for
	Used      int64                 // objects
	Pages     int64
	PerZspage int   // pages
	Freeable  int64 // pages that compaction could free at best
}

// Classes gives a row per class, ascending by size.
func (p *Pool) Classes() []ClassStat {
	rows := make([]ClassStat, len(p.geo.classes))
	for n := range rows {
		c, row := &p.geo.classes[n], &rows[n]
		row.Index, row.Size, row.PerZspage = int(c.index), int(c.size), int(c.pages)
		zspages := int64(0)
		for i := range p.slabs {
			zspages += p.addClass(row, &p.slabs[i], n, c)
		}
		row.Allocated = zspages * int64(c.objects)
		row.Pages = zspages * int64(c.pages)
		row.Freeable = (row.Allocated - row.Used) / int64(c.objects) * int64(c.pages)
	}
	return rows
}

// addClass adds one slab's share to a row and returns its zspages.
func (p *Pool) addClass(row *ClassStat, s *slab, n int, c *class) int64 {
	s.lock()
	defer s.unlock()
	k := &s.classes[n]
	full := int64(k.zspages - k.linked)
	for l := range fullnesses {
		row.Groups[l] += int64(k.length[l])
	}
	for r := k.head[listStuck]; r != none; r = p.table.runs[r].next {
		row.Groups[fullness(p.table.runs[r].objects, c)]++
	}
	if k.open != none {
		row.Groups[fullness(p.table.runs[k.open].objects, c)]++
		full--
	}
	row.Groups[fullnesses] += full
	row.Used += int64(k.objects)
	return int64(k.zspages)
}

// Total sums rows up; its Index, Size and PerZspage are 0.
func Total(rows []ClassStat) ClassStat {
	var t ClassStat
	for i := range rows {
		for g, n := range rows[i].Groups {
			t.Groups[g] += n
		}
		t.Allocated += rows[i].Allocated
		t.Used += rows[i].Used
		t.Pages += rows[i].Pages
		t.Freeable += rows[i].Freeable
	}
	return t
}
