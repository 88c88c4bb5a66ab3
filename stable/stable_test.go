package stable

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestPolicyNames(t *testing.T) {
	for i, name := range Policies() {
		p, err := ParsePolicy(name)
		if err != nil || p != Policy(i) || p.String() != name {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	for _, name := range []string{"", "Snapshot", "never"} {
		if _, err := ParsePolicy(name); err == nil {
			t.Errorf("policy %q passes", name)
		}
	}
}

// A page that changes while it is promised is caught; one that keeps still is
// not.
func TestAuditCatches(t *testing.T) {
	s := &Stats{}
	s.AuditEvery(1)
	page := bytes.Repeat([]byte("page"), PageSize/4)
	v := Borrow(page, s)
	if !v.Release() {
		t.Error("a page that kept still was caught")
	}
	v = Borrow(page, s)
	page[17] ^= 1
	if v.Release() {
		t.Error("a page that changed was not caught")
	}
	if s.Audited.Load() != 2 || s.Caught.Load() != 1 {
		t.Errorf("audited %d, caught %d, want 2 and 1", s.Audited.Load(), s.Caught.Load())
	}
}

func TestBorrowWantsAWholePage(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a view of half a page was made")
		}
	}()
	Borrow(make([]byte, PageSize/2), nil)
}

// slotModel is what one slot's word would say.
type slotModel struct {
	frame Frame
	named bool
}

// Random lives of frames against a model of the slots that name them: no frame
// is lost, none is given out twice, no promised byte changes, and each answer
// to a write is the policy's.
func TestFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const frames, slots, streams = 5, 4, 2
		stats := &Stats{}
		stats.AuditEvery(1)
		f := NewFrames(make([]byte, frames*PageSize), make([]uint64, frames), streams, stats)
		words := make([]slotModel, slots)
		type hand struct {
			fr   Frame
			view View
		}
		var hands []hand
		inUse := func() map[Frame]bool {
			m := map[Frame]bool{}
			for fr := range Frame(frames) {
				if f.State(fr) != Free {
					m[fr] = true
				}
			}
			return m
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				slot := rapid.IntRange(0, slots-1).Draw(t, "slot")
				p := Policy(rapid.IntRange(0, 2).Draw(t, "policy"))
				busy := inUse()
				fr, ok := f.Take(uint32(slot))
				if ok != (len(busy) < frames) {
					t.Fatalf("a frame was given %v with %d of %d in use", ok, len(busy), frames)
				}
				if !ok {
					return
				}
				if busy[fr] {
					t.Fatalf("frame %d was given out twice", fr)
				}
				if !bytes.Equal(f.Bytes(fr), make([]byte, PageSize)) {
					t.Fatalf("frame %d still holds what somebody wrote", fr)
				}
				page := make([]byte, PageSize)
				for i := range page {
					page[i] = byte(slot + i)
				}
				f.Fill(fr, page)
				w := &words[slot]
				if w.named {
					compressing := f.State(w.frame) == Compressing
					want := Proceed
					if compressing {
						want = []Meeting{Proceed, MustWait, MustRefuse}[p]
					}
					if got := f.Ask(w.frame, p); got != want {
						t.Fatalf("policy %v, compressing %v: %v, want %v", p, compressing, got, want)
					}
					if want != Proceed {
						f.Give(fr)
						return
					}
					f.Leave(w.frame, true)
				}
				*w = slotModel{fr, true}
				f.Stage(fr, slot%streams)
			},
			"discard": func(t *rapid.T) {
				w := &words[rapid.IntRange(0, slots-1).Draw(t, "slot")]
				if w.named {
					f.Leave(w.frame, false)
					w.named = false
				}
			},
			"begin": func(t *rapid.T) {
				fr, ok := f.Next(rapid.IntRange(0, streams-1).Draw(t, "stream"))
				if !ok {
					return
				}
				current := words[f.Owner(fr)] == slotModel{fr, true}
				v, ok := f.Begin(fr)
				if ok != current {
					t.Fatalf("frame %d: begun %v, but its slot names it %v", fr, ok, current)
				}
				if ok {
					hands = append(hands, hand{fr, v})
				}
			},
			"end": func(t *rapid.T) {
				if len(hands) == 0 {
					return
				}
				h := hands[0]
				hands = hands[1:]
				if !h.view.Release() {
					t.Fatalf("frame %d changed while it was promised", h.fr)
				}
				w := &words[f.Owner(h.fr)]
				current := *w == slotModel{h.fr, true}
				if f.Current(h.fr) != current {
					t.Fatalf("frame %d says current %v, its slot %v", h.fr, !current, current)
				}
				if rapid.Bool().Draw(t, "no room") {
					if kept := f.Again(h.fr, int(f.Owner(h.fr))%streams); kept != current {
						t.Fatalf("frame %d was kept %v, its slot names it %v", h.fr, kept, current)
					}
					return
				}
				if current {
					w.named = false
				}
				f.End(h.fr)
			},
			"": func(t *rapid.T) {
				for slot, w := range words {
					if w.named && (f.State(w.frame) != Staged && f.State(w.frame) != Compressing || f.Owner(w.frame) != uint32(slot)) {
						t.Fatalf("slot %d names frame %d, which is in state %d of slot %d", slot, w.frame, f.State(w.frame), f.Owner(w.frame))
					}
				}
				if n := len(inUse()); n != f.InUse() {
					t.Fatalf("%d frames are in use, the free list says %d", n, f.InUse())
				}
			},
		})
		if stats.Caught.Load() != 0 {
			t.Fatalf("%d promises were broken", stats.Caught.Load())
		}
	})
}
