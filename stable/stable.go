// Package stable decides who may change a page now, and which bytes are
// promised not to change.
//
// It never compresses and never stores.
package stable

// Stats will count.
type Stats struct{}
