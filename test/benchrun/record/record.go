// Package record is the form in which the benchmark keeps a run of one program:
// what the program itself reports, and the CPU time that all who took part used.
// It never decides what a figure means.
package record

import "encoding/json"

// Run is one run of a program.
type Run struct {
	Seconds float64 `json:"seconds"` // from its start to its end
	CPU     CPU     `json:"cpu"`
	// Report is what it printed: JSON as it is, other text as a string.
	Report json.RawMessage `json:"report"`
}

// CPU is processor time in seconds.
type CPU struct {
	Command float64 `json:"command"` // the program and its children
	Daemon  float64 `json:"daemon"`  // the processes that served it
	Kernel  float64 `json:"kernel"`  // all kernel threads: workers of loop devices, reclaim
}

// Of makes a report out of what a program printed: its first JSON value, or
// the text where there is none.
func Of(printed []byte) json.RawMessage {
	for i, c := range printed {
		if c != '{' && c != '[' {
			continue
		}
		var v json.RawMessage
		if json.Unmarshal(trimAfter(printed[i:]), &v) == nil {
			return v
		}
	}
	text, _ := json.Marshal(string(printed)) // strings can always be marshalled
	return text
}

// trimAfter cuts what follows the last brace or bracket.
func trimAfter(b []byte) []byte {
	for n := len(b); n > 0; n-- {
		if b[n-1] == '}' || b[n-1] == ']' {
			return b[:n]
		}
	}
	return nil
}
