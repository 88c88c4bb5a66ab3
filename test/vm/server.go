package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// server is a network block device that the host serves, and does ill to at the
// guest's word. It belongs to the goroutine that reads the guest's reports until
// that has ended.
type server struct {
	port    int // immutable; on 127.0.0.1, which a guest sees as 10.0.2.2
	process *exec.Cmd
	killed  bool
}

// startServer starts nbdkit on a port that is free. It is given the socket, so
// that nobody can take the port in between, and a client need not wait for it.
func startServer() (*server, error) {
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("nbd server: %w", err)
	}
	defer listener.Close() // the server's own remains
	socket, err := listener.File()
	if err != nil {
		return nil, fmt.Errorf("nbd server: %w", err)
	}
	defer socket.Close()
	// The kernel's words for a socket that is handed over; only the process itself
	// knows its number in time.
	cmd := exec.Command("sh", "-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec nbdkit --foreground memory 64M")
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("nbd server: %w", err)
	}
	return &server{port: listener.Addr().(*net.TCPAddr).Port, process: cmd}, nil
}

// heard does what a guest asks for in a report, "server stop", and answers with
// one character when it is done.
func (s *server) heard(text string, answer io.Writer) {
	what, ok := strings.CutPrefix(text, "server ")
	if !ok {
		return
	}
	done := "0"
	if s == nil || !s.do(what) {
		done = "1"
	}
	_, _ = io.WriteString(answer, done) // a guest that is not answered is found by its silence
}

func (s *server) do(what string) bool {
	signals := map[string]syscall.Signal{"stop": syscall.SIGSTOP, "continue": syscall.SIGCONT, "kill": syscall.SIGKILL}
	signal, ok := signals[what]
	if !ok || s.killed || s.process.Process.Signal(signal) != nil {
		return false
	}
	if s.killed = signal == syscall.SIGKILL; s.killed {
		_ = s.process.Wait() // it says that it was killed
	}
	return true
}

// end is for when the guest is gone.
func (s *server) end() {
	if !s.killed {
		s.do("kill")
	}
}
