package fuseconn

import (
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A door that is closed keeps all out but one, until it is opened.
func TestDoor(t *testing.T) {
	d := newDoor(2)
	if d.enter(0) || d.enter(2) {
		t.Error("who enters an open door is alone")
	}
	d.close(1)
	d.close(0) // too late
	if !d.enter(1) {
		t.Error("the doorman is not alone")
	}
	const outside = 8
	entered := make(chan bool, outside)
	for i := range outside {
		go func() { entered <- d.enter(i % 2 * 2) }()
	}
	d.bell.Add(1) // as good as any reason to look again
	select {
	case <-entered:
		t.Error("somebody came in while the door was closed")
	default:
	}
	d.open()
	for range outside {
		if <-entered {
			t.Error("one of many is alone")
		}
	}
	d.open()
}

// weighed is a reader that has seen the requests, a letter each: "w", it was
// waited for; "t", it was there; "L", it was there with 1 MiB of data.
func weighed(t *testing.T, alone bool, requests string) *reader {
	t.Helper()
	rd := newTestReader(t, newStore("plain"), devNull(t))
	if alone {
		rd.door.close(rd.number)
		rd.rush.alone = true
	}
	for _, r := range requests {
		n := 80
		if r == 'L' {
			n = MaxWrite
		}
		rd.weigh(r != 'w', n)
	}
	return rd
}

// The door closes when requests come one by one, and opens when they queue up.
func TestDoorFollowsTheLoad(t *testing.T) {
	times := func(n int, s string) (all string) {
		for range n {
			all += s
		}
		return all
	}
	for _, c := range []struct {
		name     string
		alone    bool
		requests string
		closed   bool
	}{
		{"one by one", false, times(closeAfter, "w"), true},
		{"not for long enough", false, times(closeAfter-1, "w"), false},
		{"a queue", false, times(1000, "t"), false},
		{"half of them wait", false, times(1000, "wt"), false},
		{"now and then one is there", false, times(10, "wwwwwt"), true},
		{"large ones", false, times(10, times(closeAfter-1, "w")+"L"), false},
		{"one by one, alone", true, times(1000, "w"), true},
		{"a queue, alone", true, times(openAfter, "t"), false},
		{"a short queue, alone", true, times(openAfter-1, "t"), true},
		{"half of them there, alone", true, times(1000, "tw"), true},
		{"a large one is there, alone", true, "L", false},
	} {
		rd := weighed(t, c.alone, c.requests)
		if closed := rd.door.doorman.Load() == int32(rd.number)+1; closed != c.closed {
			t.Errorf("%s: closed %v, want %v", c.name, closed, c.closed)
		}
	}
}

// A request that is parked opens the door: the doorman may soon have no buffer
// to wait with.
func TestParkingOpensTheDoor(t *testing.T) {
	l := &lastly{}
	rd := newTestReader(t, l, devNull(t))
	rd.door.close(rd.number)
	rd.serveOne(feed(rd, opWrite, diskNode, 6, 0, 4096))
	if rd.door.doorman.Load() != 0 {
		t.Error("the door is closed while a request waits")
	}
	l.got[0].Reply(4096, 0)
}

// looks notes whether the door is open while a request is served.
type looks struct {
	*store
	door *door
	open bool
}

func (l *looks) Serve(r *Request) (int, bool, syscall.Errno) {
	l.open = l.door.doorman.Load() == 0
	return l.store.Serve(r)
}

// A request that may take long opens the door before it is served, also where
// it came alone.
func TestLongRequestOpensTheDoor(t *testing.T) {
	for _, c := range []struct {
		opcode uint32
		size   int
		open   bool
	}{
		{opRead, pageSize, false}, {opWrite, pageSize, false}, {opRead, longBytes, false}, {opWrite, longBytes, false},
		{opRead, longBytes + pageSize, true}, {opWrite, longBytes + pageSize, true},
	} {
		l := &looks{store: newStore("plain")}
		rd := newTestReader(t, l, devNull(t))
		l.door = rd.door
		rd.door.close(rd.number)
		rd.serveOne(feed(rd, c.opcode, diskNode, 6, 0, c.size))
		if l.open != c.open {
			t.Errorf("opcode %d of %d bytes: open %t, want %t", c.opcode, c.size, l.open, c.open)
		}
	}
	if (&Request{Length: longDiscard}).long() || !(&Request{Length: longDiscard + 1}).long() {
		t.Error("discards are weighed wrongly")
	}
}

// A doorman that does not take a request that is there has the door opened; one
// that does, or for whom there is none, keeps it.
func TestRelieve(t *testing.T) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	defer to.Close()
	rd := newTestReader(t, newStore("plain"), from.Fd())
	p := &PerCPU{readers: []*reader{rd}}
	closed := func() bool { return rd.door.doorman.Load() != 0 }
	rd.door.close(rd.number)
	for range 3 {
		if p.Relieve(); !closed() {
			t.Fatal("opened where no request waits")
		}
	}
	if _, err := to.WriteString("request"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		rd.count.requests.Add(1)
		if p.Relieve(); !closed() {
			t.Fatal("opened although requests are taken")
		}
	}
	if p.Relieve(); closed() {
		t.Error("closed although nobody takes the request that waits")
	}
	if n := testing.AllocsPerRun(100, p.Relieve); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// An error of read(2) opens the door, too, so that all readers see the end.
func TestErrorOpensTheDoor(t *testing.T) {
	rd := newTestReader(t, newStore("plain"), ^uintptr(0)) // EBADF
	rd.door.close(rd.number)
	if _, errno := rd.receive(); errno == 0 || rd.door.doorman.Load() != 0 {
		t.Errorf("%v; the doorman is %d", errno, rd.door.doorman.Load())
	}
}

// A machine of one CPU has no doorman: whoever looks keeps those from it who
// could ask.
func TestOneCPUHasNoDoorman(t *testing.T) {
	if d := newDoor(1); d.look != 0 {
		t.Errorf("a doorman looks for %v", d.look)
	}
}

// Who asks for one page after another is served by one reader; who asks for much
// at once by all. Where other programs want the CPUs nobody stays awake, and each
// may be served: so it takes a quiet moment, which is waited for.
func TestLoneRequestsHaveOneReader(t *testing.T) {
	if newDoor(2).look == 0 {
		t.Skip("needs a clock that is read in less than a quarter of a microsecond")
	}
	const lone, patience = 4000, time.Minute
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		alone, most, readers := loneReads(t, lone)
		switch {
		case readers < 2:
			t.Skip("needs a second CPU")
		case alone > 0 && most >= lone/2:
			return
		case time.Since(begin) > patience:
			t.Fatalf("%d times alone, at most %d of %d reads by one reader, the last time", alone, most, lone)
		}
	}
}

// loneReads reads pages, one after another, and tells how often a reader had
// stayed awake alone, and how many of them the busiest of the readers served.
func loneReads(t *testing.T, pages int64) (alone, most uint64, readers int) {
	t.Helper()
	m := start(t, "percpu", "plain")
	f := m.open("disk", os.O_RDWR|unix.O_DIRECT)
	buf, err := anonymous(pageSize)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(buf) }()
	for i := range pages {
		if _, err := f.ReadAt(buf, i%1000*pageSize); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	r := m.stop()
	for _, rd := range r.Stats.Readers {
		alone += rd.Alone
		most = max(most, rd.Reads)
	}
	return alone, most, len(r.Stats.Readers)
}

// All requests of many are answered while the door opens and closes.
func TestDoorUnderChangingLoad(t *testing.T) {
	m := start(t, "percpu", "plain")
	f := m.open("disk", os.O_RDWR|unix.O_DIRECT)
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for range rounds {
		for _, writers := range []int{1, 8} {
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					buf, err := anonymous(2 * pageSize)
					if err != nil {
						t.Error(err)
						return
					}
					defer func() { _ = unix.Munmap(buf) }()
					for i := range int64(200) {
						off, gen := (int64(w)*200+i)*pageSize, uint64(i)
						page(buf[:pageSize], off, gen)
						if _, err := f.WriteAt(buf[:pageSize], off); err != nil {
							t.Error(err)
						}
						if _, err := f.ReadAt(buf[pageSize:], off); err != nil {
							t.Error(err)
						}
						if !slices.Equal(buf[:pageSize], buf[pageSize:]) {
							t.Errorf("page %d is not what was written", off/pageSize)
						}
					}
				})
			}
			wg.Wait()
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	r := m.stop()
	requests := uint64(0)
	for _, rd := range r.Stats.Readers {
		requests += rd.Requests
	}
	if want := uint64(rounds * (1 + 8) * 200 * 2); requests < want {
		t.Errorf("%d requests were served, of %d", requests, want)
	}
}
