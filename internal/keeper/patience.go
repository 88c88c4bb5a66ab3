package keeper

import "time"

// patience is how long a command waits for a daemon to answer: longer than
// any change of workers takes, but not for ever, since one may be stopped.
const patience = 10 * time.Second

// answered does what asks the daemon of a mount, and gives up when that takes
// longer than most. The question stays open until the daemon answers it, or
// this program ends.
func answered[T any](point string, most time.Duration, question func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	got := make(chan answer, 1)
	go func() {
		value, err := question()
		got <- answer{value, err}
	}()
	select {
	case a := <-got:
		return a.value, a.err
	case <-time.After(most):
		var none T
		return none, Errorf(CodeFailure, "nobody answered on %s for %s: its worker is stopped or stuck "+
			"(ps -C %s -o pid,stat,wchan,args tells which); kill -CONT lets one that is stopped go on, and after kill -KILL another takes over",
			point, most, nameWorker)
	}
}
