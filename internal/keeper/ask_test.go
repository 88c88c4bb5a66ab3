package keeper

import (
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// TestAskTheSilent: who asks a keeper that says nothing gets an error, and each
// word of progress gives the keeper as long again.
func TestAskTheSilent(t *testing.T) {
	dev := "test-" + strconv.Itoa(os.Getpid())
	l, err := net.ListenUnix("unixpacket", socketName(dev))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			c := &control{conn: conn}
			t.Cleanup(c.close)
			var r request
			if _, err := c.receiveJSON(&r); err == nil && r.Op == "some" {
				_ = c.sendJSON(response{Progress: "begun"}) // who asks looks
			}
		}
	}()
	for _, op := range []string{"none", "some"} {
		told := 0
		_, err := askDevice(dev, "/mnt", request{Op: op, most: 100 * time.Millisecond}, nil, func(string) { told++ })
		wantError(t, err, CodeFailure, "the keeper of /mnt has not answered for 100ms", "kill -CONT")
		if op == "some" && told != 1 {
			t.Errorf("progress was told %d times", told)
		}
	}
}
