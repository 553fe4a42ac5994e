// Package faulty makes an object store fail on purpose, so that tests can find out
// what those above it do then: errors, delays, calls that hang, bodies that end
// early, bytes that are not the ones that were stored, and the worst of all,
// operations that took effect and report an error.
//
// What fails is decided by rules and a seed: the same calls in the same order fail
// the same way.
package faulty

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/intercept"
)

// Rule says which calls fail, and how. A rule with neither Probability, Nth nor
// Every meets all calls that it is about.
type Rule struct {
	Ops    []intercept.Op // none: all
	Prefix string         // of the key

	Probability float64 // of a call to fail, 0 to 1
	Nth         int     // only the call with that number (from 1) among those the rule is about
	Every       int     // every call whose number it divides
	Times       int     // no more than so often; 0: no bound

	Latency time.Duration // before the call
	Stall   bool          // wait until the context ends, then fail with its error
	Err     error         // fail with it, wrapped in an *object.Error
	// AfterEffect: make the call first, then fail with Err.
	AfterEffect bool
	// Truncate ends the bodies of Get, and what Read returns, after so many bytes,
	// with Err or else io.ErrUnexpectedEOF. Use TruncateAtOnce for none at all.
	Truncate int64
	// Corrupt turns over one bit of what Get and Read return.
	Corrupt bool
	// CutSent makes the body of a Put or PutPart fail with Err after so many
	// bytes, as if the connection broke.
	CutSent int64
}

// TruncateAtOnce as Rule.Truncate ends bodies before their first byte.
const TruncateAtOnce = -1

// Store is an object store that fails. Its rules can be changed at any time.
type Store struct {
	*intercept.Store
	f *faults
}

// New returns s failing by rules.
func New(s object.Store, seed uint64, rules ...Rule) *Store {
	f := &faults{rng: rand.New(rand.NewPCG(seed, 0))}
	f.set(rules)
	return &Store{intercept.New(s, f), f}
}

// SetRules replaces the rules. Calls under way keep theirs.
func (s *Store) SetRules(rules ...Rule) { s.f.set(rules) }

// Injected returns the number of faults so far.
func (s *Store) Injected() int {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	return s.f.injected
}

type faults struct {
	mu       sync.Mutex
	rng      *rand.Rand
	rules    []*counted
	injected int
}

// counted is a rule with the calls it was about and those it met.
type counted struct {
	Rule
	calls, times int
}

func (f *faults) set(rules []Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
	for _, r := range rules {
		f.rules = append(f.rules, &counted{Rule: r})
	}
}

// fault is what happens to one call.
type fault struct {
	Rule
	seed uint64 // chooses the bit that Corrupt turns over
}

type faultKey struct{}

// choose returns what the first rule that meets the call says.
func (f *faults) choose(c *intercept.Call) fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rules {
		if len(r.Ops) > 0 && !slices.Contains(r.Ops, c.Op) || !strings.HasPrefix(c.Key, r.Prefix) {
			continue
		}
		r.calls++
		switch {
		case r.Times > 0 && r.times == r.Times,
			r.Nth > 0 && r.calls != r.Nth,
			r.Every > 0 && r.calls%r.Every != 0,
			r.Probability > 0 && f.rng.Float64() >= r.Probability:
			continue
		}
		r.times++
		f.injected++
		return fault{r.Rule, f.rng.Uint64()}
	}
	return fault{}
}

func (f *faults) Around(ctx context.Context, c *intercept.Call, do func(context.Context) error) error {
	x := f.choose(c)
	if x.Latency > 0 {
		t := time.NewTimer(x.Latency)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if x.Stall {
		<-ctx.Done()
		return ctx.Err()
	}
	inBody := x.Truncate != 0 || x.CutSent > 0
	if x.Err != nil && !x.AfterEffect && !inBody {
		return fmt.Errorf("injected: %w", x.Err)
	}
	err := do(context.WithValue(ctx, faultKey{}, x))
	if x.AfterEffect && err == nil {
		return fmt.Errorf("injected after the effect: %w", x.Err)
	}
	return err
}

func faultOf(ctx context.Context) fault { return ctx.Value(faultKey{}).(fault) }

func (f *faults) Sending(ctx context.Context, _ *intercept.Call, body io.Reader) io.Reader {
	x := faultOf(ctx)
	if x.CutSent <= 0 {
		return body
	}
	return &brokenReader{body, x.CutSent, fmt.Errorf("injected in the body: %w", x.cause())}
}

func (x fault) cause() error {
	if x.Err != nil {
		return x.Err
	}
	return io.ErrUnexpectedEOF
}

// brokenReader fails after left bytes, if there are more.
type brokenReader struct {
	r    io.Reader
	left int64
	err  error
}

func (b *brokenReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if b.left <= 0 {
		n, err := b.r.Read(p[:1])
		if n > 0 {
			return 0, b.err
		}
		return 0, err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func (f *faults) Receiving(ctx context.Context, _ *intercept.Call, body io.ReadCloser) io.ReadCloser {
	x := faultOf(ctx)
	var r io.Reader = body
	if x.Corrupt {
		r = &corruptReader{r, x.seed}
	}
	if x.Truncate != 0 {
		r = &brokenReader{r, max(x.Truncate, 0), fmt.Errorf("injected in the body: %w", x.cause())}
	}
	if r == io.Reader(body) {
		return body
	}
	return readCloser{r, body}
}

type readCloser struct {
	io.Reader
	io.Closer
}

// corruptReader turns over a bit in the first piece.
type corruptReader struct {
	r    io.Reader
	seed uint64
}

func (c *corruptReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 && c.seed != 0 {
		flip(p[:n], c.seed)
		c.seed = 0
	}
	return n, err
}

func flip(p []byte, seed uint64) {
	bit := seed % uint64(8*len(p))
	p[bit/8] ^= 1 << (bit % 8)
}

func (f *faults) Received(ctx context.Context, _ *intercept.Call, p []byte) (int, error) {
	x := faultOf(ctx)
	if x.Corrupt && len(p) > 0 {
		flip(p, x.seed)
	}
	if n := int(max(x.Truncate, 0)); x.Truncate != 0 && len(p) > n {
		clear(p[n:])
		return n, fmt.Errorf("injected in the body: %w", x.cause())
	}
	return len(p), nil
}
