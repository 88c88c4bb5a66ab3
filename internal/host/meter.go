package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// meterBytes holds /proc/swaps with thirty devices, and /proc/meminfo.
const meterBytes = 8 << 10

// Meter reads how full swap and memory are, in a machine that has no memory
// left: from files that are open already, into a buffer that is there. One
// goroutine uses it.
type Meter struct {
	swaps, memory *os.File // immutable
	text          []byte   // the last that was read
	buf           []byte
}

// OpenMeter opens the files and reads each once, since the kernel allocates
// its own buffer at the first read.
func OpenMeter() (*Meter, error) {
	m := &Meter{buf: make([]byte, meterBytes)}
	var err error
	if m.swaps, err = os.Open("/proc/swaps"); err != nil {
		return nil, fmt.Errorf("open meter: %w", err)
	}
	if m.memory, err = os.Open("/proc/meminfo"); err != nil {
		return nil, errors.Join(fmt.Errorf("open meter: %w", err), m.swaps.Close())
	}
	if !m.ReadSwaps() || !m.read(m.memory) {
		return nil, errors.Join(errors.New("open meter: /proc/swaps or /proc/meminfo cannot be read"), m.Close())
	}
	return m, nil
}

// Close closes the files.
func (m *Meter) Close() error { return errors.Join(m.swaps.Close(), m.memory.Close()) }

func (m *Meter) read(f *os.File) bool {
	n := 0
	for n < len(m.buf) {
		got, err := unix.Pread(int(f.Fd()), m.buf[n:], int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false
		}
		if got == 0 {
			break
		}
		n += got
	}
	m.text = m.buf[:n]
	return true
}

// ReadSwaps reads the list of swap devices anew; Swap then looks into it.
func (m *Meter) ReadSwaps() bool { return m.read(m.swaps) }

// Swap finds a device in the list as of the last ReadSwaps.
func (m *Meter) Swap(d *SwapDevice) (size, used int64, on bool) { return swapIn(m.text, d.word) }

// swapIn finds the line that begins with a word. Size and used, in KiB, are
// the last columns but two and one.
func swapIn(text, word []byte) (size, used int64, on bool) {
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		if bytes.HasPrefix(line, word) {
			rest := line[len(word):]
			rest, _ = lastNumber(rest) // priority
			rest, used = lastNumber(rest)
			_, size = lastNumber(rest)
			return size << 10, used << 10, true
		}
	}
	return 0, 0, false
}

// lastNumber takes the number at the end of a line off.
func lastNumber(line []byte) (rest []byte, n int64) {
	end := len(line)
	for end > 0 && (line[end-1] < '0' || line[end-1] > '9') {
		end--
	}
	start := end
	for start > 0 && line[start-1] >= '0' && line[start-1] <= '9' {
		start--
	}
	for _, c := range line[start:end] {
		n = n*10 + int64(c-'0')
	}
	return line[:start], n
}

// Memory gives the machine's memory, and how much of it could be had without
// swapping, in bytes.
func (m *Meter) Memory() (total, available int64, ok bool) {
	if !m.read(m.memory) {
		return 0, 0, false
	}
	total, ok1 := memoryField(m.text, memTotal)
	available, ok2 := memoryField(m.text, memAvailable)
	return total, available, ok1 && ok2
}

const (
	memTotal     = "MemTotal:"
	memAvailable = "MemAvailable:"
)

// memoryField finds a line of /proc/meminfo, in bytes.
func memoryField(text []byte, name string) (int64, bool) {
	for len(text) > 0 {
		if len(text) >= len(name) && string(text[:len(name)]) == name {
			if i := bytes.IndexByte(text, '\n'); i >= 0 {
				text = text[:i]
			}
			_, n := lastNumber(text)
			return n << 10, true
		}
		i := bytes.IndexByte(text, '\n')
		if i < 0 {
			break
		}
		text = text[i+1:]
	}
	return 0, false
}

// MachineMemory is a look at /proc/meminfo, in bytes.
type MachineMemory struct {
	Total     int64
	Available int64 // could be had without swapping
	Anonymous int64 // of programs and tmpfs, could be had by swapping
	SwapFree  int64 // of all devices
}

// ReadMemory takes a look at the machine's memory.
func ReadMemory() (MachineMemory, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return MachineMemory{}, fmt.Errorf("read memory: %w", err)
	}
	field := func(name string) int64 { n, _ := memoryField(text, name); return n }
	m := MachineMemory{
		Total:     field(memTotal),
		Available: field(memAvailable),
		Anonymous: field("Active(anon):") + field("Inactive(anon):"),
		SwapFree:  field("SwapFree:"),
	}
	if m.Total == 0 {
		return m, errors.New("read memory: /proc/meminfo does not tell it")
	}
	return m, nil
}

// SwapDevice is a swap device that can be enabled without allocating. Immutable.
type SwapDevice struct {
	path  *byte
	word  []byte // path and a space, as a line of /proc/swaps begins
	flags uintptr
}

// PrepareSwapDevice makes ready to enable a loop device as swap.
func PrepareSwapDevice(number, priority int) *SwapDevice {
	path := loopPath(number)
	name := append([]byte(path), 0)
	return &SwapDevice{
		path:  unsafe.SliceData(name),
		word:  append([]byte(path), ' '),
		flags: uintptr(swapFlagDiscard | swapFlagPrefer | priority&swapFlagPrioMask),
	}
}

// On enables it, with discards of both kinds.
func (d *SwapDevice) On() unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(d.path)), d.flags, 0)
	return errno
}

// InFlight opens the file that tells how many requests a loop device has
// under way.
func (d *SwapDevice) InFlight() (*os.File, error) {
	f, err := os.Open(filepath.Join("/sys/block", filepath.Base(unix.BytePtrToString(d.path)), "inflight"))
	if err != nil {
		return nil, fmt.Errorf("open requests in flight: %w", err)
	}
	return f, nil
}

// CountInFlight reads such a file: reads and writes under way. buf is for the
// text.
func CountInFlight(f *os.File, buf []byte) int64 {
	n, err := unix.Pread(int(f.Fd()), buf, 0)
	if err != nil {
		return 0
	}
	rest, writes := lastNumber(buf[:n])
	_, reads := lastNumber(rest)
	return reads + writes
}
