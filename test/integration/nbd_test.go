package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// nbdServer is a server of a network block device, and a file over it.
type nbdServer struct {
	t       *testing.T
	file    string
	process *exec.Cmd
}

// startNBD starts a server with that many bytes of memory, until the test ends.
func startNBD(t *testing.T, size string) *nbdServer {
	t.Helper()
	dir := scratch(t)
	socket := filepath.Join(dir, "socket")
	s := &nbdServer{t, filepath.Join(dir, "nbd"), exec.Command("nbdkit", "--foreground", "--unix", socket, "memory", size)}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.process.Process.Kill() // it may be gone
		_ = s.process.Wait()
	})
	await(t, "the socket of nbdkit", func() bool { _, err := os.Stat(socket); return err == nil })
	if err := os.WriteFile(s.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	client := exec.Command("nbdfuse", s.file, "--unix", socket)
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("umount", "-l", s.file).Run()
		_ = client.Wait()
	})
	await(t, "the file of nbdfuse", func() bool { info, err := os.Stat(s.file); return err == nil && info.Size() > 0 })
	return s
}

func (s *nbdServer) signal(sig unix.Signal) {
	if err := s.process.Process.Signal(sig); err != nil {
		s.t.Error(err)
	}
}

// TestBackingOverNBD has pages on a network disk whose server stalls, and is gone
// at last. Pages in RAM are served all the time; those on the disk come when the
// server does, and give an error when it is gone.
func TestBackingOverNBD(t *testing.T) {
	need(t, "nbdkit", "nbdfuse", "/dev/fuse")
	server := startNBD(t, "16M")
	m := mount(t, "--size", "64M", "--backing", server.file)
	disk := open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT)
	const count, away = 200, 24
	pages := aligned(t, count*pageSize)
	copy(pages, corpus(t))
	writeAt(t, disk, 0, pages)
	m.set("zramfs/writeback_promote", "0")
	m.set("writeback", "page_indexes=0-23")
	if held, _, _ := m.blocksHeld(); held == 0 {
		t.Fatal("nothing was written back")
	}
	if !bytes.Equal(readAt(t, disk, 0, len(pages)), pages) {
		t.Fatal("pages changed on their way to the server and back")
	}

	server.signal(unix.SIGSTOP)
	goOn := func() { server.signal(unix.SIGCONT) }
	defer func() { goOn() }()
	var answered atomic.Int64
	wrong := make(chan error, away)
	for slot := range int64(away) {
		page := aligned(t, pageSize)
		go func() {
			_, err := disk.ReadAt(page, slot*pageSize)
			answered.Add(1)
			if err == nil && !bytes.Equal(page, pages[slot*pageSize:][:pageSize]) {
				err = syscall.EILSEQ
			}
			wrong <- err
		}()
	}
	await(t, "that all wait for the server", func() bool { return answered.Load()+m.stat("zramfs/backing_stat", "waiting") == away })
	before := answered.Load() // same-filled pages, which stayed
	if before > away/2 {
		t.Fatalf("%d of %d pages are in RAM still", before, away)
	}
	for range 10 {
		if !bytes.Equal(readAt(t, disk, away*pageSize, (count-away)*pageSize), pages[away*pageSize:]) {
			t.Fatal("a page in RAM is another while the server stalls")
		}
		writeAt(t, disk, away*pageSize, pages[away*pageSize:])
	}
	m.set("idle", "all")
	m.set("compact", "1")
	m.check()
	if n := answered.Load(); n != before {
		t.Errorf("%d reads were answered by a server that is stopped", n-before)
	}
	server.signal(unix.SIGCONT)
	for range away {
		if err := <-wrong; err != nil {
			t.Errorf("a read after the server went on: %v", err)
		}
	}

	goOn = func() {}
	server.signal(unix.SIGKILL)
	m.set("zramfs/writeback_promote", "60")
	failed := 0
	for slot := range int64(away) {
		if _, err := disk.ReadAt(aligned(t, pageSize), slot*pageSize); err != nil {
			wantErrno(t, "read of a page that is gone", err, syscall.EIO)
			failed++
		}
	}
	if failed == 0 || m.stat("zramfs/backing_stat", "read_errors") == 0 {
		t.Error("the server is gone, and nobody is told")
	}
	if !bytes.Equal(readAt(t, disk, away*pageSize, (count-away)*pageSize), pages[away*pageSize:]) {
		t.Error("a page in RAM is another when the server is gone")
	}
	m.set("idle", "all")
	r := command(zramfsBinary, "set", m.point, "writeback", "idle")
	if r.code == 0 {
		t.Error("pages are written back to a server that is gone")
	}
	if !bytes.Equal(readAt(t, disk, away*pageSize, (count-away)*pageSize), pages[away*pageSize:]) {
		t.Error("a page that could not be written back is another")
	}
	writeAt(t, disk, 0, pages) // what was lost is written again
	if !bytes.Equal(readAt(t, disk, 0, len(pages)), pages) {
		t.Error("the disk is not what was written")
	}
}
