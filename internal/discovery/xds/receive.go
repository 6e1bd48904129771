package xds

import "context"

// receive reads a stream's requests until it ends; then failed says why. The reader ends with the stream: Recv fails
// then, and the context frees one that waits to hand a request over.
func receive[T any](ctx context.Context, recv func() (T, error)) (requests <-chan T, failed <-chan error) {
	out, end := make(chan T), make(chan error, 1)
	go func() {
		for {
			request, err := recv()
			if err != nil {
				end <- err
				return
			}
			select {
			case out <- request:
			case <-ctx.Done():
				end <- ctx.Err() // or the stream would wait for ever for what comes next
				return
			}
		}
	}()
	return out, end
}
