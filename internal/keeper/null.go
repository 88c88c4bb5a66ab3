package keeper

import (
	"strings"
	"syscall"

	"github.com/zramfs/zramfs/internal/fuseconn"
)

// nullWarning is what a null mount says of itself wherever it is looked at.
const nullWarning = "null: nothing that is written here is kept, and reads give arbitrary bytes; this is to measure the path to the daemon"

// null is a Handler that answers the disks' requests and does nothing: what
// remains is the cost of the path. Reads give what lies in their buffers.
type null struct{ fuseconn.Handler }

// Serve says that all was done.
func (n null) Serve(r *fuseconn.Request) (int, bool, syscall.Errno) { return len(r.Data), false, 0 }

// checkNull refuses what makes no sense, or would look safe, without a store.
func (c *Config) checkNull() error {
	if !c.Null {
		return nil
	}
	var with []string
	for _, o := range []struct {
		name string
		set  bool
	}{
		{"--backing", c.Backing.Path != ""},
		{"--mem-limit", c.MemLimit != 0},
		{"--policy", c.Policy != ""},
		{"--recompress", len(c.Recompress) > 0},
		{"--limit-policy", c.LimitPolicy != ""},
		{"--segments", c.Segments != 0},
		{"--write-behind", c.WriteBehind != 0},
	} {
		if o.set {
			with = append(with, o.name)
		}
	}
	if len(with) > 0 {
		return Errorf(CodeUsage, "--null stores nothing, so %s would have no effect: leave it out", strings.Join(with, ", "))
	}
	return nil
}

// refuseNull keeps data off a mount that would lose them.
func refuseNull(point, what string) error {
	d, err := readDaemon(point)
	if err != nil {
		return err
	}
	if d.Null {
		return Errorf(CodeUsage, "%s was mounted with --null and keeps nothing: %s needs a mount without it", point, what)
	}
	return nil
}
