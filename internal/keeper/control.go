package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Kinds of message between keeper and worker.
const (
	msgConfig = "config" // keeper to worker, first: everything it needs
	msgStop   = "stop"   // keeper to worker: the mount is gone, finish
	msgRegion = "region" // worker to keeper: hold this region, one descriptor
	msgDrop   = "drop"   // worker to keeper: let go of a region
	msgReady  = "ready"  // worker to keeper: serving
	msgFailed = "failed" // worker to keeper: cannot serve, and why
)

// message is one packet on the control socket.
type message struct {
	Kind   string      `json:"kind"`
	Name   string      `json:"name,omitempty"`   // of a region
	Worker *assignment `json:"worker,omitempty"` // of msgConfig
	Failed *failure    `json:"failed,omitempty"` // of msgFailed
	Notes  []string    `json:"notes,omitempty"`  // of msgReady: warnings
}

// failure is an Error on its way through a socket.
type failure struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
}

func failureOf(err error) *failure { return &failure{ExitCode(err), OneLine(err)} }

func (f *failure) error() error { return &Error{Code: f.Code, Text: f.Text} }

// maxMessage bounds a packet. The longest is msgConfig.
const maxMessage = 64 << 10

// control is one end of the socket between keeper and worker. Packets keep
// their bounds (SOCK_SEQPACKET), and a descriptor that was sent lives in the
// socket even when the sender dies before it is taken out.
type control struct {
	conn *net.UnixConn // immutable
}

// controlPair makes a socket: one end as a control, the other to be inherited.
func controlPair() (*control, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make control socket: %w", err)
	}
	other := os.NewFile(uintptr(fds[1]), "control")
	own, err := adoptControl(os.NewFile(uintptr(fds[0]), "control"))
	if err != nil {
		other.Close()
		return nil, nil, err
	}
	return own, other, nil
}

// adoptControl takes an inherited end; the file is consumed.
func adoptControl(f *os.File) (*control, error) {
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("adopt control socket: %w", err)
	}
	packets, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("adopt control socket: not a unix socket")
	}
	return &control{packets}, nil
}

// send writes a message, with a descriptor or nil.
func (c *control) send(m message, f *os.File) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	var rights []byte
	if f != nil {
		rights = unix.UnixRights(int(f.Fd()))
	}
	if _, _, err := c.conn.WriteMsgUnix(text, rights, nil); err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	return nil
}

// receive waits for a message and its descriptor, nil if it has none. io.EOF:
// the other process is gone.
func (c *control) receive() (message, *os.File, error) {
	buf := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(buf, oob)
	if err == nil && n == 0 || errors.Is(err, unix.ECONNRESET) {
		err = io.EOF
	}
	if err != nil {
		return message{}, nil, err
	}
	f, err := descriptorIn(oob[:oobn])
	if err != nil {
		return message{}, nil, fmt.Errorf("receive: %w", err)
	}
	var m message
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("message cut short")
	} else {
		err = json.Unmarshal(buf[:n], &m)
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return message{}, nil, fmt.Errorf("receive: %w", err)
	}
	return m, f, nil
}

func descriptorIn(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	packets, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(packets) != 1 {
		return nil, errors.Join(errors.New("descriptor expected"), err)
	}
	fds, err := unix.ParseUnixRights(&packets[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("one descriptor expected"), err)
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "received"), nil
}

func (c *control) close() { c.conn.Close() }
