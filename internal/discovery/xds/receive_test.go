package xds

import (
	"context"
	"testing"
	"testing/synctest"
)

// TestReceiveEnds: a proxy that goes while a request of its waits to be read is noticed, whatever the stream does then.
func TestReceiveEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, gone := context.WithCancel(t.Context())
		_, failed := receive(ctx, func() (int, error) { return 1, nil })
		synctest.Wait() // it holds a request that nobody takes
		gone()
		synctest.Wait()
		select {
		case <-failed:
		default:
			t.Fatal("the stream is never told that its proxy is gone")
		}
	})
}
