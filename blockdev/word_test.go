package blockdev

import (
	"testing"

	"pgregory.net/rapid"
)

func TestWordKeepsItsFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom([]state{same, staged, stored, huge, backed}).Draw(t, "state")
		params := uint8(rapid.IntRange(0, 15).Draw(t, "params"))
		size := rapid.IntRange(1, PageSize-1).Draw(t, "size")
		switch s {
		case same:
			size = 1 + size%sameReplace
		case huge:
			size = PageSize
		}
		place := rapid.Uint64Range(0, maxPlace).Draw(t, "place")
		slot := rapid.Uint64Range(0, MaxSize/PageSize-1).Draw(t, "slot")
		w := (makeWord(s, params, size, place) | flagIdle).seal(slot)
		if w.state() != s || w.params() != params || w.size() != size || w.place() != place || !w.has(flagIdle) {
			t.Fatalf("%#x lost a field", uint64(w))
		}
		if !w.sound(slot) {
			t.Fatalf("%#x is not sound for its own slot %d", uint64(w), slot)
		}
	})
}

// Every single flipped bit is noticed, so none turns a page into an empty one.
func TestWordNoticesEveryFlippedBit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slot := rapid.Uint64Range(0, MaxSize/PageSize-1).Draw(t, "slot")
		w := makeWord(rapid.SampledFrom([]state{same, staged, stored, huge, backed}).Draw(t, "state"), 3, rapid.IntRange(1, PageSize).Draw(t, "size"),
			rapid.Uint64Range(0, maxPlace).Draw(t, "place")).seal(slot)
		for bit := range 64 {
			if flipped := w ^ 1<<bit; flipped.sound(slot) {
				t.Fatalf("%#x with bit %d flipped passes for slot %d", uint64(w), bit, slot)
			}
		}
	})
}

func TestEmptyWordIsZeroAlone(t *testing.T) {
	if !word(0).sound(7) || word(0).state() != empty {
		t.Fatal("the word of a table that was never written is not empty")
	}
	for w := word(1) << paramsShift; w <= plainMask; w <<= 1 {
		if w.seal(7).sound(7) {
			t.Fatalf("%#x has the empty state, is not 0, and passes", uint64(w.seal(7)))
		}
	}
}

func TestWordIsTiedToItsSlot(t *testing.T) {
	w := makeWord(stored, 1, 1000, 12345).seal(10)
	passes := 0
	for slot := uint64(11); slot < 1011; slot++ {
		if w.sound(slot) {
			passes++
		}
	}
	if passes > 20 { // one in 256 by chance
		t.Fatalf("the word of slot 10 passes for %d of 1000 other slots", passes)
	}
}
