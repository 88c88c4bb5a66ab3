package keeper

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// What commands ask the keeper of a mount, over the socket of socket.go.

const (
	askTries = 40 // while a keeper is being replaced nobody listens
	askPause = 50 * time.Millisecond
)

// errNoKeeper: nobody listens for this mount.
var errNoKeeper = errors.New("its keeper does not answer")

// newRequest makes a request; args are the op's own, nil for none.
func newRequest(op string, args any) (request, error) {
	if args == nil {
		return request{Op: op}, nil
	}
	text, err := json.Marshal(args)
	if err != nil {
		return request{}, fmt.Errorf("ask the keeper %s: %w", op, err)
	}
	return request{Op: op, Args: text}, nil
}

// ask sends a request to the keeper of the mount on point, with a file or nil,
// hands on what progress it tells, and gives the result. A failure that the
// keeper reports is the error, and so is a keeper that is silent for too long.
func ask(point string, req request, f *os.File, progress func(string)) (response, error) {
	dev, err := deviceOf(point)
	if err != nil {
		return response{}, err
	}
	if dev == "" {
		return response{}, Errorf(CodeNotMounted, "no zramfs is mounted on %s", point)
	}
	return askDevice(dev, point, req, f, progress)
}

// askDevice is ask, for a mount that may have no mount point any more.
func askDevice(dev, point string, req request, f *os.File, progress func(string)) (response, error) {
	c, err := dialKeeper(dev)
	if err != nil {
		return response{}, err
	}
	defer c.close()
	if err := c.sendJSON(req, f); err != nil {
		return response{}, fmt.Errorf("ask the keeper %s: %w", req.Op, err)
	}
	most := cmp.Or(req.most, patience)
	for {
		if err := c.conn.SetReadDeadline(time.Now().Add(most)); err != nil {
			return response{}, fmt.Errorf("ask the keeper %s: %w", req.Op, err)
		}
		var r response
		files, err := c.receiveJSON(&r)
		closeAll(files)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return response{}, &Error{CodeFailure, fmt.Sprintf("the keeper of %s has not answered for %s: it is stopped or stuck "+
				"(ps -C %s -o pid,stat,wchan,args tells); kill -CONT lets one that is stopped go on", point, most, nameKeeper), err}
		case errors.Is(err, io.EOF):
			return response{}, &Error{CodeFailure, "the keeper of " + point + " ended before it had answered: " +
				"zramfs status tells what serves now", err}
		case err != nil:
			return response{}, fmt.Errorf("ask the keeper %s: %w", req.Op, err)
		case r.Failed != nil:
			return response{}, r.Failed.error()
		case r.Progress == "":
			return r, nil
		case progress != nil:
			progress(r.Progress)
		}
	}
}

// dialKeeper connects to a keeper, and makes sure that it is no other user's
// process with its name.
func dialKeeper(dev string) (*control, error) {
	var conn *net.UnixConn
	var err error
	for range askTries {
		conn, err = net.DialUnix("unixpacket", nil, socketName(dev))
		if !errors.Is(err, unix.ECONNREFUSED) {
			break
		}
		time.Sleep(askPause)
	}
	if err != nil {
		return nil, &Error{CodeFailure, errNoKeeper.Error(), errors.Join(errNoKeeper, err)}
	}
	uid, err := peerOf(conn)
	if err == nil && int(uid) != os.Geteuid() {
		err = Errorf(CodeNotPermitted, "the mount belongs to user %d: ask as that user", uid)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &control{conn: conn}, nil
}

// Processes are a mount's, as its keeper knows them; 0: there is none now.
type Processes struct {
	Keeper     int    `json:"keeper_pid"`
	Worker     int    `json:"worker_pid"`
	Standby    int    `json:"standby_pid"`
	Generation int    `json:"generation"`
	Others     []int  `json:"others,omitempty"` // of an upgrade
	State      string `json:"state"`
}

// Pids lists the processes that there are.
func (p Processes) Pids() []int {
	var pids []int
	for _, pid := range []int{p.Worker, p.Standby, p.Keeper} {
		if pid != 0 {
			pids = append(pids, pid)
		}
	}
	return append(pids, p.Others...)
}

// askUnmounted tells the keeper that its mount is gone.
func askUnmounted(m host.Mount) error {
	_, err := askDevice(m.Dev, m.Point, request{Op: opUnmounted}, nil, nil)
	return err
}

// askProcesses asks the keeper of a mount who there is. It asks no worker.
func askProcesses(point string) (p Processes, err error) {
	for range askTries { // a keeper may be replaced while it is asked
		var r response
		if r, err = ask(point, request{Op: opStatus}, nil, nil); err == nil {
			return p, r.into(&p)
		}
		if !errors.Is(err, io.EOF) {
			break
		}
	}
	return p, err
}
