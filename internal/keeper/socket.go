package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Commands talk to the keeper of a mount over an abstract socket that is named
// after the mount's device. A connection is one request, maybe with a file,
// then packets of progress, then the result; the keeper's end of it closes.

// request is what a command asks a keeper.
type request struct {
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`

	most time.Duration // that who asks waits for each packet; 0: patience
}

// response is a packet from the keeper: progress, or the end.
type response struct {
	Progress string          `json:"progress,omitempty"`
	Failed   *failure        `json:"failed,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
}

// into reads the result; v is the op's own.
func (r response) into(v any) error {
	if err := json.Unmarshal(r.Result, v); err != nil {
		return fmt.Errorf("the keeper's answer: %w", err)
	}
	return nil
}

// question is a request at the keeper.
type question struct {
	request
	ctx  context.Context // done when who asked is gone
	file *os.File        // came along; nil: none. Closed when the op returns.
	conn *control
}

// progress tells who asked how far it is.
func (q *question) progress(format string, args ...any) {
	_ = q.conn.sendJSON(response{Progress: fmt.Sprintf(format, args...)}, nil) // he may be gone
}

// op answers a question, on a goroutine of its own; what it needs of the
// keeper's state it gets by keeper.do.
type op func(k *keeper, q *question) (result any, err error)

const (
	opStatus    = "status"    // gives Processes
	opUnmounted = "unmounted" // has the keeper look whether the mount is still there
)

// ops lists what a keeper can be asked.
func ops() map[string]op {
	return map[string]op{
		opStatus:    (*keeper).answerStatus,
		opSwap:      (*keeper).answerSwap,
		opUnmounted: (*keeper).answerUnmounted,
		opUpgrade:   (*keeper).answerUpgrade,
	}
}

// socketName is where the keeper of a mount listens; dev is its device.
func socketName(dev string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unixpacket", Name: "@zramfs:" + dev}
}

// questions is how many are answered at once.
const questions = 8

// listen starts answering questions, if it can: a keeper that cannot be asked
// still serves. The kernel gives the number of a device that is gone to the
// next mount at once, so the keeper before may still have the name.
func (k *keeper) listen() {
	go func() {
		l, err := net.ListenUnix("unixpacket", socketName(k.dev))
		for try := 0; errors.Is(err, unix.EADDRINUSE) && try < lockTries; try++ {
			time.Sleep(lockPause)
			l, err = net.ListenUnix("unixpacket", socketName(k.dev))
		}
		if err == nil && k.do(func() error { k.listener = l; return nil }) != nil {
			l.Close() // the mount has ended meanwhile
			return
		}
		if err != nil {
			k.say("upgrade and swapon will not work on this mount: %v", err)
			return
		}
		k.accept(l)
	}()
}

// accept answers connections, a goroutine each, until the listener is closed.
func (k *keeper) accept(l *net.UnixListener) {
	slots := make(chan struct{}, questions)
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptor, no memory
			time.Sleep(askPause)
			continue
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			k.answer(&control{conn: conn})
		}()
	}
}

// answer answers one connection.
func (k *keeper) answer(c *control) {
	defer c.close()
	uid, err := peerOf(c.conn)
	if err != nil || int(uid) != os.Geteuid() && uid != 0 {
		return
	}
	q := question{conn: c}
	if err := c.conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return
	}
	files, err := c.receiveJSON(&q.request)
	if len(files) > 0 {
		q.file = files[0]
	}
	defer closeAll(files)
	if err != nil || c.conn.SetReadDeadline(time.Time{}) != nil {
		return
	}
	var cancel context.CancelFunc
	q.ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	go func() { // nothing more comes but the end
		_, _ = c.receiveJSON(&request{})
		cancel()
	}()
	var r response
	result, err := any(nil), error(Errorf(CodeUsage, "this keeper knows no %q: it is of another version", q.Op))
	if known := ops()[q.Op]; known != nil {
		result, err = known(k, &q)
	}
	if err == nil && result != nil {
		r.Result, err = json.Marshal(result)
	}
	if err != nil {
		r.Failed = failureOf(err)
	}
	_ = c.sendJSON(r, nil) // he may be gone
}

// errEnding: the mount ends, and does nothing else any more.
var errEnding = &Error{CodeNotMounted, "the mount is ending", syscall.ESHUTDOWN}

// do runs f on the goroutine that the keeper's state belongs to, and waits.
func (k *keeper) do(f func() error) error {
	done := make(chan error, 1)
	select {
	case k.calls <- func() { done <- f() }:
		return <-done
	case <-k.ended:
		return errEnding
	}
}

// answerStatus tells who there is, also when nobody serves.
func (k *keeper) answerStatus(*question) (any, error) {
	p := Processes{Keeper: os.Getpid()}
	err := k.do(func() error {
		p.Generation, p.State = k.generation, StateRecovering
		if k.worker != nil {
			p.Worker = k.worker.pid
			if k.worker.stage == serving {
				p.State = StateServing
			}
		}
		if k.standby != nil {
			p.Standby = k.standby.pid
		}
		for other := range k.processes {
			if other != k.worker && other != k.standby {
				p.Others = append(p.Others, other.pid)
			}
		}
		return nil
	})
	return p, err
}

// answerUnmounted ends the keeper if its mount has ended. A worker that is
// stopped, or that is not there, does not tell.
func (k *keeper) answerUnmounted(*question) (any, error) {
	return nil, k.do(func() error {
		if k.held.over() {
			k.finish(nil)
		}
		return nil
	})
}

// peerOf is the user at the other end.
func peerOf(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("peer of socket: %w", err)
	}
	var cred *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(ctlErr, err); err != nil {
		return 0, fmt.Errorf("peer of socket: %w", err)
	}
	return cred.Uid, nil
}
