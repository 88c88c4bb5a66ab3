package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/zramfs/zramfs/internal/swapload"
)

// load is a program that runs again and again until it is told to end, and
// must end well each time.
type load struct {
	t    *testing.T
	stop chan struct{}
	done chan struct{}
	// After done:
	rounds int
	slow   []time.Duration // the slowest operation of each round
	bytes  int64
	busy   time.Duration
	failed string
}

func startLoad(t *testing.T, round func(l *load) error) *load {
	l := &load{t: t, stop: make(chan struct{}), done: make(chan struct{})}
	t.Cleanup(l.halt) // before the mount ends
	go func() {
		defer close(l.done)
		for {
			start := time.Now()
			if err := round(l); err != nil {
				l.failed = err.Error()
				return
			}
			l.busy += time.Since(start)
			l.rounds++
			select {
			case <-l.stop:
				return
			default:
			}
		}
	}()
	return l
}

func (l *load) halt() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	<-l.done
}

// end waits for the round that runs, and tells how the load did.
func (l *load) end() {
	l.t.Helper()
	l.halt()
	if l.failed != "" {
		l.t.Fatalf("round %d: %s", l.rounds+1, l.failed)
	}
	slowest := time.Duration(0)
	if len(l.slow) > 0 {
		slices.Sort(l.slow)
		slowest = l.slow[len(l.slow)-1]
	}
	l.t.Logf("%d rounds without an error, %.0f MiB/s, slowest operation %s",
		l.rounds, float64(l.bytes)/(1<<20)/l.busy.Seconds(), slowest.Round(time.Millisecond))
}

// startFio writes random blocks with a checksum in each and reads them back,
// at depth 32.
func startFio(t *testing.T, target string) *load {
	t.Helper()
	dir := scratch(t)
	return startLoad(t, func(l *load) error {
		cmd := exec.Command("fio", "--eta=never", "--output-format=json", "--name=survive", "--filename="+target,
			"--direct=1", "--ioengine=libaio", "--iodepth=32", "--rw=randwrite", "--bssplit=4k/60:16k/20:64k/20",
			"--size=48M", "--offset="+fmt.Sprint(l.rounds%8*48)+"M", "--randseed="+fmt.Sprint(l.rounds+1),
			"--verify=crc32c", "--verify_fatal=1", "--verify_backlog=256", "--buffer_compress_percentage=60", "--refill_buffers")
		cmd.Dir = dir // it leaves a file where verification fails
		out, err := cmd.Output()
		var report struct {
			Jobs []struct{ Read, Write fioSide }
		}
		if jsonErr := json.Unmarshal(out, &report); err == nil && jsonErr != nil {
			err = jsonErr
		}
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = fmt.Errorf("fio: %w: %s%s", err, exit.Stderr, out)
			}
			return err
		}
		for _, j := range report.Jobs {
			l.bytes += j.Read.Bytes + j.Write.Bytes
			l.slow = append(l.slow, j.Read.Latency.Max, j.Write.Latency.Max)
		}
		return nil
	})
}

type fioSide struct {
	Bytes   int64 `json:"io_bytes"`
	Latency struct {
		Max time.Duration `json:"max"`
	} `json:"clat_ns"`
}

// startSwapper runs the program whose pages are verified.
func startSwapper(t *testing.T, s *swap) *load {
	t.Helper()
	return startLoad(t, func(l *load) error {
		cmd := exec.Command(swapperBinary, "-json", "-size", "192M", "-limit", "64M", "-corpus", "../../testdata/pages.zst",
			"-touches", "20000", "-seed", fmt.Sprint(l.rounds+1))
		out, err := cmd.Output()
		var report swapload.Report
		if err == nil {
			err = json.Unmarshal(out, &report)
		}
		if err != nil {
			return fmt.Errorf("swapper: %w: %s", err, out)
		}
		if report.Wrong != 0 || report.Bytes == 0 {
			return fmt.Errorf("%d pages of %d bytes came back wrong: %v", report.Wrong, report.Bytes, report.First)
		}
		for _, p := range report.Phases {
			l.bytes += int64(p.Pages) * pageSize
		}
		return nil
	})
}
