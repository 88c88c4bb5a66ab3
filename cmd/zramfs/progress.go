package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// quiet is how long what takes long says nothing.
const quiet = 2 * time.Second

// progress tells how far a command is, if it takes long: on a terminal in one
// line that changes, or as lines of JSON.
type progress struct {
	out      io.Writer
	json     bool
	terminal bool
	start    time.Time
	shown    bool
	say      func(done, total int64) string
}

func newProgress(cmd *cobra.Command, asJSON bool, say func(done, total int64) string) *progress {
	p := &progress{out: cmd.ErrOrStderr(), json: asJSON, start: time.Now(), terminal: isTerminal(os.Stderr), say: say}
	if asJSON {
		p.out = cmd.OutOrStdout()
	}
	return p
}

func (p *progress) tell(done, total int64) {
	switch {
	case p.json:
		_ = json.NewEncoder(p.out).Encode(map[string]int64{"done": done, "total": total})
	case p.terminal && time.Since(p.start) >= quiet:
		p.shown = true
		fmt.Fprintf(p.out, "\r%s\x1b[K", p.say(done, total))
	}
}

// end leaves the line empty for what is said next.
func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
