package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
)

// wantError checks the exit code of an error and words of its sentence.
func wantError(t *testing.T, err error, code Code, words ...string) {
	t.Helper()
	if ExitCode(err) != code {
		t.Errorf("got code %d (%v), want %d", ExitCode(err), err, code)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"4096": 4096, "512M": 512 << 20, "4G": 4 << 30, "1GiB": 1 << 30, "1gb": 1 << 30, "1.5G": 3 << 29,
		"16T": 16 << 40, "16TiB": 16 << 40, " 8K ": 8 << 10,
	} {
		if got, err := ParseSize(text); got != want || err != nil {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
	}
	for text, words := range map[string]string{
		"0": "is zero", "0G": "is zero", "lots": "is not a size", "": "is not a size", "4X": "is not a size",
		"-1": "is negative", "-4G": "is negative", "17T": "beyond 16 TiB", "16T1": "is not a size",
		"17592186044417": "beyond 16 TiB", "99999999P": "beyond 16 TiB", "inf": "is not a size",
	} {
		_, err := ParseSize(text)
		wantError(t, err, CodeUsage, words)
	}
	if n, err := ParseLimit("0"); n != 0 || err != nil {
		t.Errorf("limit 0: %d, %v", n, err)
	}
}

func TestPageSize(t *testing.T) {
	if err := checkPageSize(4096); err != nil {
		t.Error(err)
	}
	wantError(t, checkPageSize(65536), CodeLacking, "65536", "4 KiB")
}

func TestFuseDevice(t *testing.T) {
	wantError(t, checkFuse(filepath.Join(t.TempDir(), "fuse")), CodeLacking, "modprobe fuse", "--device /dev/fuse")
	wantError(t, checkFuse("/dev/null"), CodeLacking, "/dev/null is not the fuse device")
}

func TestMountpoint(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(empty, link); err != nil {
		t.Fatal(err)
	}
	for path, words := range map[string]string{
		filepath.Join(dir, "none"): "does not exist",
		file:                       "is not a directory",
		dir:                        "is not empty (empty is in it)",
	} {
		_, err := checkMountpoint(path)
		wantError(t, err, CodeMountpoint, words)
	}
	_, err := checkMountpoint("")
	wantError(t, err, CodeUsage, "name a directory")
	if got, err := checkMountpoint(link); got != empty || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, empty)
	}
}

func TestConfigRefuses(t *testing.T) {
	good := Config{Mountpoint: t.TempDir(), Size: 1 << 20, Transport: TransportAuto}
	for words, spoil := range map[string]func(*Config){
		"size of 0":       func(c *Config) { c.Size = 0 },
		"16 TiB":          func(c *Config) { c.Size = MaxSize + 1 },
		"stable policy":   func(c *Config) { c.Stable = "hope" },
		"-1 streams":      func(c *Config) { c.Streams = -1 },
		"transport \"x\"": func(c *Config) { c.Transport = "x" },
		"-1 frames":       func(c *Config) { c.WriteBehind = -1 },
	} {
		c := good
		spoil(&c)
		wantError(t, c.Check(), CodeUsage, words)
	}
}

// Who asks for rings that are not to be had is told so, and gets nothing else.
func TestNoRing(t *testing.T) {
	wantError(t, initError(fmt.Errorf("INIT: %w", fuseconn.ErrNoRing)), CodeLacking, "use --transport percpu")
	if err := initError(unix.EIO); !errors.Is(err, unix.EIO) || ExitCode(err) != CodeFailure {
		t.Errorf("another error became %v", err)
	}
	c := Config{Transport: TransportRing}
	wantError(t, c.checkRing(false), CodeNotPermitted, "needs root")
	c.Transport = TransportAuto
	if err := c.checkTransport(); err != nil || c.Transport == TransportRing || c.Transport == TransportAuto {
		t.Errorf("auto became %s, %v", c.Transport, err)
	}
}

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Code
	}{
		{nil, CodeOK},
		{errors.New("x"), CodeFailure},
		{unix.EBUSY, CodeBusy},
		{errors.Join(errors.New("x"), unix.EINVAL), CodeUsage},
		{&os.PathError{Op: "open", Err: unix.EACCES}, CodeNotPermitted},
		{errors.Join(Errorf(CodeLacking, "x"), unix.EBUSY), CodeLacking},
	} {
		if got := ExitCode(c.err); got != c.want {
			t.Errorf("%v: got %d, want %d", c.err, got, c.want)
		}
	}
	if len(CodeHelp()) != int(codes) {
		t.Errorf("%d codes are explained, there are %d", len(CodeHelp()), codes)
	}
	if got := OneLine(errors.Join(errors.New("a"), errors.New("b"))); got != "a; b" {
		t.Errorf("got %q", got)
	}
}
