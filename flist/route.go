package flist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// Route says that a store has the blocks whose ids begin with Start to End, inclusive;
// the two are of equal length. Ranges may overlap: then several stores have a block.
type Route struct {
	// Pool orders stores: those of a lower one are asked first.
	Pool       int
	Start, End []byte
	URL        string
}

// Everything routes all blocks to a store.
func Everything(url string) Route { return Route{Start: []byte{0}, End: []byte{0xff}, URL: url} }

func (r *Route) has(id []byte) bool {
	n := len(r.Start)
	return n <= len(id) && bytes.Compare(id[:n], r.Start) >= 0 && bytes.Compare(id[:n], r.End) <= 0
}

// Routes are where the blocks of an image are.
type Routes []Route

// maxRoutes bounds the stores of an image.
const maxRoutes = 4096

// ParseRoute reads a route as people write it: URL, or XX-YY=URL with the first
// bytes of the ids in hexadecimal.
func ParseRoute(s string) (Route, error) {
	span, url, ok := strings.Cut(s, "=")
	if !ok || strings.Contains(span, ":") {
		return Everything(s), nil
	}
	var from, to byte
	if n, err := fmt.Sscanf(span, "%02x-%02x", &from, &to); n != 2 || err != nil || len(span) != 5 || from > to {
		return Route{}, fmt.Errorf("%.20q is no range of blocks; write two digits, '-' and two digits, such as 00-7f=URL", span)
	}
	return Route{Start: []byte{from}, End: []byte{to}, URL: url}, nil
}

// Router gets blocks from the stores that have them, and puts them there.
type Router struct {
	version Version
	stores  []*routed
}

type routed struct {
	Route
	store Store
	// failing is when the store last failed, in Unix seconds; 0: it did not.
	failing atomic.Int64
}

// shunned is how long a store that has failed is asked after the others of its pool.
const shunned = 30 * time.Second

// NewRouter opens the stores of routes. Several routes to one URL share a store.
func NewRouter(ctx context.Context, v Version, routes Routes) (*Router, error) {
	r := &Router{version: v}
	if len(routes) > maxRoutes {
		return nil, badImage("it names %d stores", len(routes))
	}
	open := map[string]Store{}
	for i, route := range routes {
		s := open[route.URL]
		if s == nil {
			var err error
			if s, err = OpenStore(ctx, route.URL); err != nil {
				return nil, errors.Join(fmt.Errorf("block store %d (%s): %w", i+1, WithoutSecrets(route.URL), err), r.Close())
			}
			open[route.URL] = s
		}
		r.stores = append(r.stores, &routed{Route: route, store: s})
	}
	return r, nil
}

// Close closes the stores.
func (r *Router) Close() error {
	var errs []error
	closed := map[Store]bool{}
	for _, s := range r.stores {
		if !closed[s.store] {
			closed[s.store] = true
			errs = append(errs, s.store.Close())
		}
	}
	return errors.Join(errs...)
}

// order returns the stores that should have a block, best first: by pool, those that
// fail last, otherwise by chance.
func (r *Router) order(id []byte) []*routed {
	var all []*routed
	for _, s := range r.stores {
		if s.has(id) {
			all = append(all, s)
		}
	}
	rand.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	now := time.Now().Unix()
	rank := func(s *routed) int {
		bad := 0
		if f := s.failing.Load(); f != 0 && now-f < int64(shunned/time.Second) {
			bad = 1
		}
		return 2*s.Pool + bad
	}
	// Few stores match: insertion keeps the shuffled order of equals.
	for i := 1; i < len(all); i++ {
		for k := i; k > 0 && rank(all[k]) < rank(all[k-1]); k-- {
			all[k], all[k-1] = all[k-1], all[k]
		}
	}
	return all
}

// fetchTries is how often the stores of a block are asked before it counts as lost, if
// any of them failed rather than said no.
const fetchTries = 3

// Fetch gets a block, verifies it and writes its plain text to dst, which has room
// for BlockSize bytes. It returns the part of dst that it filled. A store that fails,
// has it not or gives other bytes is passed over. Errors: EIO if no store has the right
// one, or that of ctx.
func (r *Router) Fetch(ctx context.Context, b Block, dst []byte) ([]byte, error) {
	if err := r.version.checkBlock(b); err != nil {
		return nil, err
	}
	var last error
	for try := range fetchTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-time.After(time.Duration(try) * (50*time.Millisecond + rand.N(100*time.Millisecond))):
			}
		}
		again := false
		for _, s := range r.order(b.ID) {
			sealed, err := s.store.Get(ctx, b.ID)
			if err == nil {
				var plain []byte
				if plain, err = r.version.Open(b, sealed, dst); err == nil {
					s.failing.Store(0)
					return plain, nil
				}
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if !errors.Is(err, ErrNotFound) {
				s.failing.Store(time.Now().Unix())
				again = true
			}
			if last == nil || !errors.Is(err, ErrNotFound) {
				last = fmt.Errorf("%v: %w", s.store, err)
			}
		}
		if !again {
			break
		}
	}
	if last == nil {
		last = errors.New("no store is named that would have it")
	}
	return nil, vfs.WithErrno(syscall.EIO, fmt.Errorf("block %v: %w", b, last))
}

// Put stores a block in all stores that should have it. Without any it fails.
func (r *Router) Put(ctx context.Context, id, sealed []byte) error {
	some := false
	for _, s := range r.stores {
		if !s.has(id) {
			continue
		}
		some = true
		if err := s.store.Put(ctx, id, sealed); err != nil {
			return fmt.Errorf("block %x: %v: %w", id, s.store, err)
		}
	}
	if !some {
		return fmt.Errorf("block %x: no store is named that would take it", id)
	}
	return nil
}
