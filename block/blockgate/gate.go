package blockgate

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/object"
)

// Config says what a Gate serves. Only Authority is required.
type Config struct {
	Authority Authority
	// Life is how long signed requests are good for; 0: 5 min. It is also how long
	// a client whose token was revoked can still use those that it has.
	Life time.Duration

	// Limits of transfers through the server: of one session, and of all. What is
	// above them waits up to Patience, and is then told to come again.
	SessionRequests, Requests int   // 0: 32 and 512
	SessionBytes, Bytes       int64 // of bodies in flight; 0: 64 MiB and 1 GiB
	Patience                  time.Duration
	// StallTimeout ends transfers whose client makes no progress; 0: 30 s.
	StallTimeout time.Duration

	Logger *slog.Logger // nil: slog.Default()
}

// Gate is the server's half: an http.Handler for everything below Path. It needs
// no closing; transfers are owned by the HTTP server.
//
// Memory: 64 KiB for each transfer, up to 1 MiB for one of plain bytes, and what
// the object store's driver needs, which is bounded by its own configuration.
type Gate struct {
	cfg    Config
	log    *slog.Logger
	mux    *http.ServeMux
	limits *limits
	stats  counters

	mu      sync.Mutex
	writing map[writeKey]struct{} // blocks being written through the server
}

type writeKey struct {
	v  *Volume
	id block.ID
}

type counters struct {
	grants, refused, signed      atomic.Int64
	objectGets, puts, plainGets  atomic.Int64
	sentBytes, receivedBytes     atomic.Int64
	unauthenticated, busy, fails atomic.Int64
}

// Stats are the figures of a Gate since New.
type Stats struct {
	Grants, Refused, Signed     int64 // blocks asked for; of these not given; given as signed requests
	ObjectGets, Puts, PlainGets int64 // transfers through the server
	SentBytes, ReceivedBytes    int64
	Unauthenticated             int64 // requests without a live session
	Busy, Failed                int64 // transfers put off; those that the store failed
}

// Stats returns the figures.
func (g *Gate) Stats() Stats {
	c := &g.stats
	return Stats{Grants: c.grants.Load(), Refused: c.refused.Load(), Signed: c.signed.Load(),
		ObjectGets: c.objectGets.Load(), Puts: c.puts.Load(), PlainGets: c.plainGets.Load(),
		SentBytes: c.sentBytes.Load(), ReceivedBytes: c.receivedBytes.Load(),
		Unauthenticated: c.unauthenticated.Load(), Busy: c.busy.Load(), Failed: c.fails.Load()}
}

// New returns a gate.
func New(cfg Config) *Gate {
	if cfg.Life == 0 {
		cfg.Life = 5 * time.Minute
	}
	if cfg.SessionRequests == 0 {
		cfg.SessionRequests = 32
	}
	if cfg.Requests == 0 {
		cfg.Requests = 512
	}
	if cfg.SessionBytes == 0 {
		cfg.SessionBytes = 64 << 20
	}
	if cfg.Bytes == 0 {
		cfg.Bytes = 1 << 30
	}
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	g := &Gate{cfg: cfg, log: cfg.Logger, mux: http.NewServeMux(), writing: make(map[writeKey]struct{}), limits: newLimits(cfg)}
	for pattern, serve := range map[string]func(*Gate, *request) error{
		"POST " + Path + "grants":        (*Gate).serveGrants,
		"GET " + Path + "object/{block}": (*Gate).serveGet,
		"PUT " + Path + "object/{block}": (*Gate).servePut,
		"GET " + Path + "plain/{block}":  (*Gate).servePlain,
	} {
		g.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, serve) })
	}
	return g
}

// ServeHTTP implements http.Handler.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.mux.ServeHTTP(w, r) }

// request is one request of an authenticated session.
type request struct {
	w       http.ResponseWriter
	r       *http.Request
	s       Session
	v       *Volume
	control *http.ResponseController
	begun   bool // the answer's header has been sent
}

func (g *Gate) serve(w http.ResponseWriter, r *http.Request, serve func(*Gate, *request) error) {
	w.Header().Set("Cache-Control", "no-store")
	q := &request{w: w, r: r, control: http.NewResponseController(w)}
	s, err := g.authenticate(r)
	if err == nil {
		q.s, q.v = s, s.Volume()
		err = serve(g, q)
	}
	if err != nil {
		g.fail(q, err)
	}
	// A later request on this connection has its own time.
	_ = q.control.SetWriteDeadline(time.Time{})
}

func (g *Gate) authenticate(r *http.Request) (Session, error) {
	name := r.Header.Get(sessionHeader)
	scheme, secret, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if name == "" || len(name) > 512 || !ok || !strings.EqualFold(scheme, "Bearer") || secret == "" || len(secret) > 512 {
		g.stats.unauthenticated.Add(1)
		return nil, ErrSession
	}
	s, err := g.cfg.Authority.Authenticate(r.Context(), name, secret)
	if err != nil {
		g.stats.unauthenticated.Add(1)
		return nil, err
	}
	select {
	case <-s.Done():
		return nil, ErrSession
	default:
		return s, nil
	}
}

// fail answers with an error, or, if the answer has begun, cuts it.
func (g *Gate) fail(q *request, err error) {
	ref, status := refuse(err)
	if status >= 500 && q.r.Context().Err() == nil {
		g.stats.fails.Add(1)
		var session string
		if q.s != nil {
			session = q.s.Name()
		}
		g.log.Warn("block gate: a request failed", "session", session, "method", q.r.Method, "path", clean(q.r.URL.Path), "error", err)
	}
	if q.begun {
		panic(http.ErrAbortHandler) // the client must not take what it got for all
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		q.w.Header().Set("Retry-After", "1")
	}
	q.json(status, ref)
}

func (q *request) json(status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // types of this package
	}
	q.begun = true
	q.w.Header().Set("Content-Type", "application/json")
	q.w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	q.w.WriteHeader(status)
	_, _ = q.w.Write(text) // a client that has gone needs no answer
}

func (g *Gate) serveGrants(q *request) error {
	_ = q.control.SetReadDeadline(time.Now().Add(g.cfg.StallTimeout))
	ask, err := decodeGrants(q.r.Body)
	if err != nil {
		return err
	}
	ctx := q.r.Context()
	reply := grantReply{Grants: make([]grant, 0, len(ask.Reads)+len(ask.Writes))}
	add := func(gr grant, err error) {
		g.stats.grants.Add(1)
		if err != nil {
			ref, status := refuse(err)
			if status >= 500 {
				g.log.Warn("block gate: a grant failed", "session", q.s.Name(), "error", err)
			}
			g.stats.refused.Add(1)
			gr = grant{refusal: ref}
		}
		reply.Grants = append(reply.Grants, gr)
	}
	for _, r := range ask.Reads {
		add(g.grantRead(ctx, q.s, r))
	}
	for _, w := range ask.Writes {
		add(g.grantWrite(ctx, q.s, w))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	q.json(http.StatusOK, reply)
	return nil
}

// access is what a session may read of a block: all of it, or ranges.
type access struct {
	all    bool
	ref    block.Ref
	ranges []block.Range
}

// mayRead decides. A block that the session may not see is missing for it, so that
// it does not learn what there is.
func (g *Gate) mayRead(ctx context.Context, s Session, id block.ID, at place) (access, error) {
	if s.Whole() {
		return access{all: true}, nil
	}
	if at.ino == 0 {
		// What it has written itself, to compare after an answer was lost.
		if err := s.MayWrite(ctx, id); err != nil {
			return access{}, missing(err)
		}
		return access{all: true}, nil
	}
	size, ranges, err := s.Uses(ctx, at.ino, at.chunk, id)
	if err != nil {
		return access{}, missing(err)
	}
	if len(ranges) == 0 {
		return access{}, object.ErrNotFound
	}
	for _, r := range ranges {
		if uint64(r.Off)+uint64(r.Len) > uint64(size) {
			return access{}, say(object.ErrCorrupt, "the metadata points beyond block %d", id)
		}
	}
	return access{all: covers(ranges, size), ref: block.Ref{ID: id, Size: size}, ranges: ranges}, nil
}

func missing(err error) error {
	if errors.Is(err, ErrDenied) {
		return object.ErrNotFound
	}
	return err
}

// covers tells whether the ranges together are all of a block of size bytes.
func covers(ranges []block.Range, size uint32) bool {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b block.Range) int { return int(int64(a.Off) - int64(b.Off)) })
	var end uint64
	for _, r := range sorted {
		if uint64(r.Off) > end {
			return false
		}
		end = max(end, uint64(r.Off)+uint64(r.Len))
	}
	return end >= uint64(size)
}

func (g *Gate) grantRead(ctx context.Context, s Session, r readRequest) (grant, error) {
	id := block.ID(r.Block)
	may, err := g.mayRead(ctx, s, id, place{r.Ino, r.Chunk})
	if err != nil {
		return grant{}, err
	}
	v := s.Volume()
	switch signer := g.signer(v); {
	case !may.all && !v.Sealed:
		return g.through(throughPlain), nil
	case !may.all || signer == nil:
		return g.through(throughObject), nil
	default:
		signed, err := signer.PresignGet(ctx, v.Blocks.Key(id), g.cfg.Life)
		return g.grantSigned(signed, err)
	}
}

func (g *Gate) grantWrite(ctx context.Context, s Session, w writeRequest) (grant, error) {
	id := block.ID(w.Block)
	if err := s.MayWrite(ctx, id); err != nil {
		return grant{}, err
	}
	v := s.Volume()
	signer := g.signer(v)
	if signer == nil || !v.Objects.Capabilities().PutIfAbsent {
		return g.through(throughObject), nil
	}
	signed, err := signer.PresignPut(ctx, v.Blocks.Key(id), w.Size, w.Sum, g.cfg.Life, &object.PutOptions{IfAbsent: true})
	return g.grantSigned(signed, err)
}

func (g *Gate) signer(v *Volume) object.Presigner {
	if v.NoSigning {
		return nil
	}
	signer, _ := object.As[object.Presigner](v.Objects)
	return signer
}

func (g *Gate) grantSigned(r object.SignedRequest, err error) (grant, error) {
	if errors.Is(err, object.ErrUnsupported) {
		return g.through(throughObject), nil
	}
	if err != nil {
		return grant{}, err
	}
	g.stats.signed.Add(1)
	return grant{Method: r.Method, URL: r.URL, Header: r.Header, LifeMillis: r.Life.Milliseconds()}, nil
}

func (g *Gate) through(what string) grant {
	return grant{Through: what, LifeMillis: g.cfg.Life.Milliseconds()}
}
