// Package jwks reads key sets where RequestAuthentications say that those of token issuers are, and MeshConfig that SPIFFE bundles are. Sources
// enter, key sets leave; it must not know what they are used for.
package jwks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

const (
	refresh    = 20 * time.Minute
	firstRetry = time.Second
	lastRetry  = time.Minute
	usual      = 5 * time.Second // that an answer is waited for
	largest    = 1 << 20         // bytes of an answer
)

// Reader keeps the key sets of the sources that are wanted. One that cannot be read again stays as it was.
type Reader struct {
	client   http.Client
	tell     func(source, keys string)
	mu       sync.Mutex
	followed map[string]followed // by source
}

// followed is a source that is read again and again, until it is stopped.
type followed struct {
	stop     context.CancelFunc
	patience time.Duration
}

// New makes a reader that tells of each key set that is new or another one.
func New(tell func(source, keys string)) *Reader {
	return &Reader{tell: tell, followed: map[string]followed{}}
}

// Want says which sources are to be read from now on, until the context ends, and how long to wait for an answer of each; 0 is as long
// as usual. A source is a URI, or mesh.IssuerPrefix and an issuer, whose own document then tells the URI.
func (r *Reader) Want(ctx context.Context, sources map[string]time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for source, f := range r.followed {
		if patience, wanted := sources[source]; !wanted || patience != f.patience {
			f.stop()
			delete(r.followed, source)
		}
	}
	for source, patience := range sources {
		if _, known := r.followed[source]; !known {
			own, stop := context.WithCancel(ctx)
			r.followed[source] = followed{stop, patience}
			go r.follow(own, source, cmp.Or(patience, usual))
		}
	}
}

func (r *Reader) follow(ctx context.Context, source string, patience time.Duration) {
	last, retry := "", firstRetry
	for {
		limited, done := context.WithTimeout(ctx, patience)
		keys, err := r.read(limited, source)
		done()
		wait := refresh
		if err != nil {
			slog.Warn("a key set cannot be read; what only its keys would prove is refused until it can be", "source", source, "error", err)
			wait, retry = retry, min(2*retry, lastRetry)
		} else {
			retry = firstRetry
			if keys != last && ctx.Err() == nil {
				last = keys
				r.tell(source, keys)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (r *Reader) read(ctx context.Context, source string) (string, error) {
	uri := source
	if issuer, ask := strings.CutPrefix(source, mesh.IssuerPrefix); ask {
		text, err := r.get(ctx, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
		if err != nil {
			return "", err
		}
		var document struct {
			URI string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(text, &document); err != nil || document.URI == "" {
			return "", errors.New("the issuer's OpenID configuration names no jwks_uri")
		}
		uri = document.URI
	}
	text, err := r.get(ctx, uri)
	if err != nil {
		return "", err
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil || len(set.Keys) == 0 {
		return "", fmt.Errorf("%s is no key set", uri)
	}
	return string(text), nil
}

func (r *Reader) get(ctx context.Context, uri string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	response, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", uri, response.Status)
	}
	return io.ReadAll(io.LimitReader(response.Body, largest))
}
