package blockdev

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"unsafe"

	"github.com/zramfs/zramfs/internal/invariants"
)

// The ledger says which devices exist, whether they have a disk, and their
// settings. It lies in memory that outlives a worker:
//
//	0     magic, version, capacity
//	64    a word per device: its state, and which copy of its record counts
//	4096  per device two copies of its record: the text of its settings
//
// A device changes by one atomic store of its word: the new record is complete
// in the other copy by then. The word holds a sum of the record, of itself and
// of the number, so that no torn or foreign record is taken for a good one.
const (
	ledgerVersion = 2
	ledgerWordsAt = 64
	ledgerRecords = PageSize
	ledgerCopy    = 512 // bytes of a record
	ledgerTextAt  = 4   // where in it the text begins, after its length

	// LedgerReady is how much of a ledger holds the records of the first devices:
	// what is worth being in memory before it is needed.
	LedgerReady = ledgerRecords + 4*2*ledgerCopy
	// LedgerBytes is the size of a Config.Ledger.
	LedgerBytes = ledgerRecords + maxDevices*2*ledgerCopy
)

// Format numbers everything that this package keeps in shared memory: a binary
// of another number cannot take over.
const Format = formatVersion<<16 | ledgerVersion

// Bits of a device's word. The sum fills the upper half; the change number
// between moves on with every change, even one that changes nothing else.
const (
	ledgerExists = 1 << 0
	ledgerDisk   = 1 << 1
	ledgerSecond = 1 << 2 // the second copy counts
	ledgerChange = 1 << 3 // the change number's lowest bit
)

var ledgerMagic = [8]byte{'z', 'r', 'a', 'm', 'l', 'e', 'd', '\n'}

// ledger is the shared memory, whose lifetime is the caller's.
//
// Invariant: a device's record is changed by one thread at a time, who holds
// Device.mu, or Set.mu as long as the device is in no set.
type ledger struct{ mem []byte }

// record is what the ledger says of one device.
type record struct {
	exists   bool
	disk     bool // the device has a disk, in the region of its name
	settings settings
}

// openLedger takes up a ledger, or begins one in memory that is all zero.
func openLedger(mem []byte) (ledger, error) {
	l := ledger{mem}
	if len(mem) != LedgerBytes {
		return l, fmt.Errorf("ledger of devices: %d bytes, need %d: %w", len(mem), LedgerBytes, ErrInvalid)
	}
	le := binary.LittleEndian
	switch [8]byte(mem) {
	case ledgerMagic:
	case [8]byte{}:
		le.PutUint64(mem[8:], ledgerVersion)
		le.PutUint64(mem[16:], maxDevices)
		invariants.CrashPoint("life.ledger.begin")
		copy(mem, ledgerMagic[:])
		return l, nil
	default:
		return l, fmt.Errorf("ledger of devices begins with %q, which is not zramfs's: %w", mem[:8], ErrCorrupt)
	}
	if v := le.Uint64(mem[8:]); v != ledgerVersion {
		return l, fmt.Errorf("ledger of devices has format version %d, this binary reads %d: %w",
			v, ledgerVersion, ErrUnsupported)
	}
	if n := le.Uint64(mem[16:]); n != maxDevices {
		return l, fmt.Errorf("ledger of devices has room for %d, this binary reads %d: %w", n, maxDevices, ErrUnsupported)
	}
	return l, nil
}

func (l ledger) word(id int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&l.mem[ledgerWordsAt+8*id]))
}

func (l ledger) copyOf(id int, word uint64) []byte {
	at := ledgerRecords + id*2*ledgerCopy
	if word&ledgerSecond != 0 {
		at += ledgerCopy
	}
	return l.mem[at:][:ledgerCopy:ledgerCopy]
}

// publish makes r what the ledger says of a device. With an error it says
// what it said before.
func (l ledger) publish(id int, r record) error {
	was := l.word(id).Load()
	word := (was&(1<<32-1)&^(ledgerExists|ledgerDisk) + ledgerChange) & (1<<32 - 1)
	word ^= ledgerSecond
	b := l.copyOf(id, word)
	if r.exists {
		word |= ledgerExists
		text := r.settings.text()
		if len(text) > ledgerCopy-ledgerTextAt {
			return fmt.Errorf("keep the settings of zram%d: they take %d bytes, and there is room for %d; use shorter paths: %w",
				id, len(text), ledgerCopy-ledgerTextAt, ErrTooBig)
		}
		writeText(b, text)
	}
	if r.disk {
		word |= ledgerDisk
	}
	invariants.CrashPoint("life.ledger.record")
	l.word(id).Store(word | ledgerSum(id, word, b)<<32)
	invariants.CrashPoint("life.ledger.published")
	return nil
}

// read tells what the ledger says of a device.
func (l ledger) read(id int) (record, error) {
	word := l.word(id).Load()
	if word == 0 {
		return record{}, nil
	}
	b, low := l.copyOf(id, word), word&(1<<32-1)
	if word>>32 != ledgerSum(id, low, b) {
		return record{}, fmt.Errorf("ledger of devices: the record of zram%d fails its checksum: %w", id, ErrCorrupt)
	}
	r := record{exists: word&ledgerExists != 0, disk: word&ledgerDisk != 0}
	if !r.exists {
		return record{}, nil
	}
	text, err := readText(b)
	if err == nil {
		r.settings, err = parseSettings(text)
	}
	if err != nil {
		return record{}, fmt.Errorf("ledger of devices: zram%d: %w", id, err)
	}
	return r, nil
}

// changes counts the changes of all devices together.
func (l ledger) changes() (n uint64) {
	for id := range maxDevices {
		n += l.word(id).Load() & (1<<32 - 1) / ledgerChange
	}
	return n
}

// ledgerSum covers a word's lower half and, of a device that exists, its record.
func ledgerSum(id int, word uint64, b []byte) uint64 {
	var head [12]byte
	binary.LittleEndian.PutUint32(head[:], uint32(id))
	binary.LittleEndian.PutUint64(head[4:], word)
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Checksum(head[:], table)
	if word&ledgerExists != 0 {
		sum = crc32.Update(sum, table, b)
	}
	return uint64(sum)
}

// writeText puts settings into a copy of a record: their length, their text.
func writeText(b []byte, text string) {
	clear(b)
	binary.LittleEndian.PutUint32(b, uint32(len(text)))
	copy(b[ledgerTextAt:], text)
}

// readText reads what writeText wrote.
func readText(b []byte) (string, error) {
	n := binary.LittleEndian.Uint32(b)
	if n > ledgerCopy-ledgerTextAt {
		return "", fmt.Errorf("settings of %d bytes: %w", n, ErrCorrupt)
	}
	return string(b[ledgerTextAt:][:n]), nil
}
