package host

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Load is how busy the machine is, in per mille.
type Load struct {
	Busy     int // of the time: CPUs worked, or some program waited for one, whichever is more
	Pressure int // of the time: some program waited for memory; -1: the kernel does not tell
	Free     int // of memory: could be had without swapping; -1: unknown
}

// loadBytes holds what matters of /proc/stat and /proc/meminfo.
const loadBytes = 4 << 10

// loadRest is how long a reading is good for: CPU time is counted in ticks.
const loadRest = 500 * time.Millisecond

// LoadMeter reads how busy the machine is, from files that it keeps open, into
// a buffer that is there. What the kernel does not have it does without.
type LoadMeter struct {
	stat, cpu, memory, average, info *os.File // immutable; nil: there is none

	mu          sync.Mutex
	buf         [loadBytes]byte // guarded by mu, as the rest
	at          time.Time
	last        Load
	idle, total int64 // ticks of all CPUs
}

// OpenLoadMeter opens what there is.
func OpenLoadMeter() *LoadMeter {
	open := func(path string) *os.File {
		f, err := os.Open(path)
		if err != nil {
			return nil
		}
		return f
	}
	m := &LoadMeter{stat: open("/proc/stat"), cpu: open("/proc/pressure/cpu"), memory: open("/proc/pressure/memory"),
		average: open("/proc/loadavg"), info: open("/proc/meminfo")}
	m.Read()
	return m
}

// Close closes the files.
func (m *LoadMeter) Close() {
	for _, f := range []io.Closer{m.stat, m.cpu, m.memory, m.average, m.info} {
		_ = f.Close() // of a nil file: an error
	}
}

// Read takes a look, or gives that of a moment ago.
func (m *LoadMeter) Read() Load {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.Sub(m.at) >= loadRest {
		m.at = now
		m.last = m.look()
	}
	return m.last
}

func (m *LoadMeter) look() Load {
	l := Load{Pressure: -1, Free: -1}
	if text := m.text(m.stat); text != nil {
		idle, total := cpuTimes(text)
		if total > m.total && m.total != 0 {
			l.Busy = 1000 - int(min(max((idle-m.idle)*1000/(total-m.total), 0), 1000))
		}
		m.idle, m.total = idle, total
	} else if text := m.text(m.average); text != nil {
		l.Busy = min(hundredths(text)*10/cpus(), 1000)
	}
	if share, ok := someShare(m.text(m.cpu)); ok {
		l.Busy = max(l.Busy, share)
	}
	if share, ok := someShare(m.text(m.memory)); ok {
		l.Pressure = share
	}
	if text := m.text(m.info); text != nil {
		total, ok1 := memoryField(text, memTotal)
		available, ok2 := memoryField(text, memAvailable)
		if ok1 && ok2 && total > 0 {
			l.Free = int(available * 1000 / total)
		}
	}
	return l
}

// text reads the begin of a file; nil if it cannot be read.
func (m *LoadMeter) text(f *os.File) []byte {
	if f == nil {
		return nil
	}
	n, err := unix.Pread(int(f.Fd()), m.buf[:], 0)
	if err != nil || n <= 0 {
		return nil
	}
	return m.buf[:n]
}

// cpuTimes adds up the first line of /proc/stat: user, nice, system, idle,
// iowait, irq, softirq, steal. Waiting for a disk is idle.
func cpuTimes(text []byte) (idle, total int64) {
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	line, ok := bytes.CutPrefix(line, []byte("cpu "))
	for i := 0; ok && i < 8; i++ {
		n := int64(0)
		line = bytes.TrimLeft(line, " ")
		for len(line) > 0 && line[0] >= '0' && line[0] <= '9' {
			n = n*10 + int64(line[0]-'0')
			line = line[1:]
		}
		total += n
		if i == 3 || i == 4 {
			idle += n
		}
	}
	return idle, total
}

// someShare finds avg10 of the line "some" of a pressure file, in per mille.
func someShare(text []byte) (share int, ok bool) {
	_, rest, ok := bytes.Cut(text, []byte("some avg10="))
	return hundredths(rest) / 10, ok
}

// hundredths reads a number such as 12.34.
func hundredths(text []byte) (n int) {
	for i, digits := 0, -1; i < len(text) && digits < 2; i++ {
		switch c := text[i]; {
		case c == '.' && digits < 0:
			digits = 0
		case c < '0' || c > '9':
			return n
		default:
			n = n*10 + int(c-'0')
			if digits >= 0 {
				digits++
			}
		}
	}
	return n
}

// cpus is how many CPUs this process may run on.
func cpus() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 1
	}
	return max(set.Count(), 1)
}
