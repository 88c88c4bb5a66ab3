package keeper

import "testing"

// TestSwapWaits: swap waits for room, whatever rungs it is asked to climb.
func TestSwapWaits(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "compact": "compact,wait=10s", "compact,wait=2s": "compact,wait=2s", "wait=0s": "wait=0s",
	} {
		if got := (&SwapConfig{LimitPolicy: text}).limitPolicy(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
