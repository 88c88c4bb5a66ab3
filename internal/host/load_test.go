package host

import "testing"

func TestLoadParsers(t *testing.T) {
	idle, total := cpuTimes([]byte("cpu  10 20 30 400 50 6 7 8 900 900\ncpu0 1 1 1 1\n"))
	if idle != 450 || total != 531 {
		t.Errorf("CPU times: %d of %d idle, want 450 of 531", idle, total)
	}
	if idle, total := cpuTimes([]byte("intr 1 2 3\n")); idle != 0 || total != 0 {
		t.Errorf("no CPU times: %d, %d", idle, total)
	}
	const pressure = "some avg10=12.34 avg60=0.58 avg300=1.32 total=75\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=0\n"
	if share, ok := someShare([]byte(pressure)); !ok || share != 123 {
		t.Errorf("pressure: %d, %v; want 123", share, ok)
	}
	if _, ok := someShare(nil); ok {
		t.Error("pressure of nothing")
	}
	if n := hundredths([]byte("0.07 0.15 0.51 1/90 3")); n != 7 {
		t.Errorf("load average 0.07: %d hundredths", n)
	}
}

// On this machine the figures are shares, whatever it has, and a reading makes
// no garbage.
func TestLoadMeter(t *testing.T) {
	m := OpenLoadMeter()
	defer m.Close()
	l := m.Read()
	if l.Busy < 0 || l.Busy > 1000 || l.Pressure < -1 || l.Pressure > 1000 || l.Free < -1 || l.Free > 1000 {
		t.Errorf("load %+v", l)
	}
	if n := testing.AllocsPerRun(10, func() { m.look() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	none := &LoadMeter{}
	if l := none.Read(); l != (Load{Pressure: -1, Free: -1}) {
		t.Errorf("without /proc: %+v", l)
	}
}
