package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Kinds of message between keeper and worker.
const (
	msgHello     = "hello"     // worker to keeper, first: what program it is
	msgConfig    = "config"    // keeper to worker: everything it needs, with the descriptors that it lists
	msgRegion    = "region"    // either way: hold this region of a device, one descriptor
	msgDrop      = "drop"      // either way: let go of a region
	msgPrepared  = "prepared"  // worker to keeper: all is mapped, it waits
	msgGo        = "go"        // keeper to worker: serve
	msgReady     = "ready"     // worker to keeper: serving
	msgChecked   = "checked"   // worker to keeper: what it took over is sound, or is not
	msgSay       = "say"       // worker to keeper: for the log
	msgFailed    = "failed"    // worker to keeper: cannot serve, and why
	msgStop      = "stop"      // keeper to worker: the mount is gone, finish
	msgPopulate  = "populate"  // worker to keeper: commit and lock this range of a region
	msgPopulated = "populated" // keeper to worker: done, or why not
)

// message is one packet on the control socket.
type message struct {
	Kind   string      `json:"kind"`
	Name   string      `json:"name,omitempty"`   // of a region
	Hello  *hello      `json:"hello,omitempty"`  // of msgHello
	Worker *assignment `json:"worker,omitempty"` // of msgConfig
	Order  *order      `json:"order,omitempty"`  // of msgGo
	Range  *populating `json:"range,omitempty"`  // of msgPopulate and msgPopulated
	Failed *failure    `json:"failed,omitempty"` // of msgFailed, msgChecked, msgPopulated
	Notes  []string    `json:"notes,omitempty"`  // of msgReady: warnings; of msgSay: lines
	Resend bool        `json:"resend,omitempty"` // of msgReady: the kernel sends again what a dead worker had
}

// populating is a range of a region, with a number that tells one from another.
type populating struct {
	Number uint64 `json:"number"`
	Off    int64  `json:"off"`
	N      int64  `json:"n"`
}

// failure is an Error on its way through a socket.
type failure struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
}

func failureOf(err error) *failure { return &failure{ExitCode(err), OneLine(err)} }

func (f *failure) error() error { return &Error{Code: f.Code, Text: f.Text} }

const (
	// maxMessage bounds a packet. The longest is msgConfig.
	maxMessage = 64 << 10
	// maxFiles bounds the descriptors of a packet; the kernel takes 253.
	maxFiles = 64
	// sendTime is how long a process may leave its end of the socket full.
	sendTime = 2 * time.Second
)

// control is one end of the socket between keeper and worker, or keeper and
// command. Packets keep their bounds (SOCK_SEQPACKET), and a descriptor that
// was sent lives in the socket even when the sender dies before it is taken out.
//
// Any goroutine may send, one receives.
type control struct {
	conn *net.UnixConn // immutable

	packet []byte // of who receives; nil before the first
	rights []byte // of who receives
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
	return &control{conn: packets}, nil
}

// send writes a message, with descriptors or none.
func (c *control) send(m message, files ...*os.File) error {
	return c.sendJSON(m, files...)
}

func (c *control) sendJSON(v any, files ...*os.File) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	var fds []int
	for _, f := range files {
		if f != nil {
			fds = append(fds, int(f.Fd()))
		}
	}
	if len(text) > maxMessage || len(fds) > maxFiles {
		return fmt.Errorf("send: %d bytes, %d descriptors: too many", len(text), len(fds))
	}
	var rights []byte
	if fds != nil {
		rights = unix.UnixRights(fds...)
	}
	// A process that is stopped takes nothing out of its socket.
	if err := c.conn.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if _, _, err := c.conn.WriteMsgUnix(text, rights, nil); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// hungUp says whether an error of send means that the other process is gone.
// The first send to one that left something unread says it in its own way.
func hungUp(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) }

// receive waits for a message and its descriptors. io.EOF: the other process
// is gone.
func (c *control) receive() (message, []*os.File, error) {
	var m message
	files, err := c.receiveJSON(&m)
	return m, files, err
}

func (c *control) receiveJSON(v any) ([]*os.File, error) {
	if c.packet == nil {
		c.packet, c.rights = make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFiles))
	}
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(c.packet, c.rights)
	for errors.Is(err, unix.ECONNRESET) { // it left something unread; what it had sent is still to come
		n, oobn, flags, _, err = c.conn.ReadMsgUnix(c.packet, c.rights)
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	files, err := filesIn(c.rights[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("message cut short")
	}
	if err == nil {
		err = json.Unmarshal(c.packet[:n], v)
	}
	if err != nil {
		closeAll(files)
		return nil, fmt.Errorf("receive: %w", err)
	}
	return files, nil
}

// filesIn takes descriptors out of a packet's control data.
func filesIn(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	packets, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	var files []*os.File
	for i := range packets {
		fds, err := unix.ParseUnixRights(&packets[i])
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (c *control) close() { c.conn.Close() }
