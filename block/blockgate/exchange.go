package blockgate

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"github.com/massif-fs/massif/object/wire"
)

var errClosed = fmt.Errorf("the block gate's client is closed: %w", context.Canceled)

// place names the other side in errors, without path and query: the query of a
// signed URL is a secret.
func where(u *url.URL) string { return u.Scheme + "://" + u.Host }

// toGate makes a request of the gate.
func (c *Client) toGate(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	name, secret, err := c.cfg.Session(ctx)
	if err != nil {
		return nil, err
	}
	u := *c.base
	u.Path += path
	u.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%w: request to %s", object.ErrInvalid, where(&u))
	}
	r.Header.Set(sessionHeader, name)
	r.Header.Set("Authorization", "Bearer "+secret)
	c.agent(r)
	return r, nil
}

func (c *Client) agent(r *http.Request) {
	if c.cfg.UserAgent != "" {
		r.Header.Set("User-Agent", c.cfg.UserAgent)
	}
}

// toBucket makes the request that a grant has signed.
func (c *Client) toBucket(ctx context.Context, g *grant, body io.Reader) (*http.Request, error) {
	u, err := url.Parse(g.URL)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%w: the gate's signed request makes no sense", object.ErrInvalid)
	}
	if u.Scheme == "http" && !c.cfg.PlainBucket && !loopback(u.Hostname()) {
		return nil, fmt.Errorf("%w: the bucket at %s is reached without TLS, so that others could read and use signed requests; allow it explicitly or give the store an https endpoint", object.ErrAccess, where(u))
	}
	r, err := http.NewRequestWithContext(ctx, g.Method, g.URL, body)
	if err != nil {
		return nil, fmt.Errorf("%w: the gate's signed request makes no sense", object.ErrInvalid)
	}
	for name, values := range g.Header {
		for _, v := range values {
			r.Header.Add(name, v)
		}
	}
	c.agent(r)
	return r, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// do sends a request and returns the answer, whatever its status. An error is
// about the way there and back, and names no URL.
func (c *Client) do(client *http.Client, w *watchdog.Dog, r *http.Request) (*http.Response, error) {
	resp, err := client.Do(r)
	if err != nil {
		return nil, c.broken(w, r.URL, err)
	}
	return resp, nil
}

// broken explains an error of the HTTP client, without the URL that it would name.
func (c *Client) broken(w *watchdog.Dog, u *url.URL, err error) error {
	if cause := wire.Explain(w, where(u)); cause != nil {
		return cause
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return wire.ExplainNetwork(where(u), err)
}

// failure is an answer that says no, or makes no sense.
func failure(kind error, format string, args ...any) error {
	return &wire.Failure{Kind: kind, Text: fmt.Sprintf(format, args...), Cause: kind}
}

// finish ends the use of an answer that has been read as far as it will be.
func finish(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10) // so that the connection can be used again
	_ = resp.Body.Close()
}

// gateError makes the error of the gate's answer.
func (c *Client) gateError(resp *http.Response) error {
	var ref refusal
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return fmt.Errorf("%w: the metadata server at %s sends its clients elsewhere, which a block gate does not", object.ErrInvalid, where(c.base))
	}
	if decode(resp.Body, 4<<10, &ref) != nil || ref.Code == "" {
		return failure(object.ErrUnavailable, "%s: status %d, and not in the words of a block gate", where(c.base), resp.StatusCode)
	}
	return ref.error()
}

var plainCode = regexp.MustCompile(`^[A-Za-z0-9.]{1,64}$`)

// bucketError makes the error of the bucket's answer. Of its text only the code is
// shown: an answer to a bad signature holds the signature.
func bucketError(resp *http.Response) error {
	var answer struct {
		Code string `xml:"Code"`
	}
	_ = xml.NewDecoder(io.LimitReader(resp.Body, 16<<10)).Decode(&answer) // other stores answer otherwise
	code := answer.Code
	if !plainCode.MatchString(code) {
		code = ""
	}
	var kind error
	switch s := resp.StatusCode; {
	case code == "NoSuchBucket":
		kind = object.ErrNoBucket
	case s == http.StatusNotFound:
		kind = object.ErrNotFound
	case s == http.StatusPreconditionFailed:
		kind = object.ErrExists
	case s == http.StatusRequestedRangeNotSatisfiable:
		kind = wire.ErrRange
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		kind = object.ErrAccess
	case s == http.StatusConflict, s == http.StatusTooManyRequests, s == http.StatusRequestTimeout:
		kind = object.ErrUnavailable
	case code == "BadDigest", code == "XAmzContentChecksumMismatch", code == "IncompleteBody":
		kind = object.ErrUnavailable // damaged on its way
	case code == "ExpiredToken", code == "RequestExpired":
		kind = object.ErrAccess
	case s == http.StatusInsufficientStorage:
		kind = object.ErrNoSpace
	case s == http.StatusNotImplemented:
		kind = object.ErrUnsupported
	case s >= 500:
		kind = object.ErrUnavailable
	case s >= 300 && s < 400:
		return fmt.Errorf("%w: the bucket's server at %s answers with a redirection, which is not followed", object.ErrInvalid, where(resp.Request.URL))
	case s >= 400:
		kind = object.ErrInvalid
	default:
		kind = object.ErrUnavailable
	}
	detail := "HTTP " + strconv.Itoa(resp.StatusCode)
	if code != "" {
		detail = code + ", " + detail
	}
	return failure(kind, "%s: %v (%s)", where(resp.Request.URL), kind, detail)
}

// askGrants asks the gate for grants and checks that it answers for each.
func (c *Client) askGrants(ctx context.Context, q *grantRequest) ([]grant, error) {
	text, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	w := watchdog.Watch(ctx, c.cfg.StallTimeout)
	defer w.End()
	r, err := c.toGate(w.Context(), http.MethodPost, "grants", nil, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.do(c.gate, w, r)
	if err != nil {
		return nil, err
	}
	defer finish(resp)
	if resp.StatusCode != http.StatusOK {
		return nil, c.gateError(resp)
	}
	var reply grantReply
	if err := decode(resp.Body, maxReply, &reply); err != nil {
		return nil, c.nonsense()
	}
	if len(reply.Grants) != len(q.Reads)+len(q.Writes) {
		return nil, c.nonsense()
	}
	for i := range reply.Grants {
		g := &reply.Grants[i]
		method := http.MethodGet
		if i >= len(q.Reads) {
			method = http.MethodPut
		}
		switch {
		case g.Code != "":
		case g.URL != "" && g.Through == "" && g.Method == method:
		case g.URL == "" && g.Through == throughObject:
		case g.URL == "" && g.Through == throughPlain && method == http.MethodGet:
		default:
			return nil, c.nonsense()
		}
	}
	return reply.Grants, nil
}

func (c *Client) nonsense() error {
	return wire.Nonsense(where(c.base), "not what a block gate says")
}

// get begins to read n bytes of a block's object at off, to its end if n is
// negative. wire.ErrRange: the object ends before.
func (c *Client) get(ctx context.Context, nm name, off, n int64) (*wire.Receiving, object.Info, error) {
	for try := 0; ; try++ {
		h, err := c.book.read(ctx, nm.id)
		if err != nil {
			if errors.Is(err, object.ErrNotFound) {
				c.book.forgetFile(nm.id, c.book.file(nm.id))
			}
			return nil, object.Info{}, err
		}
		if h.Through == throughPlain {
			return nil, object.Info{}, block.ErrInParts
		}
		body, info, err := c.open(ctx, nm, h, off, n)
		if err == nil {
			return body, info, nil
		}
		if errors.Is(err, block.ErrInParts) || errors.Is(err, object.ErrAccess) {
			// The grant is no longer good: the signature has expired sooner than
			// told (a key was changed, clocks are wrong), or the scope is another.
			c.book.forget(nm.id, h)
			if try == 0 {
				continue
			}
		}
		return nil, object.Info{}, err
	}
}

func (c *Client) open(ctx context.Context, nm name, h *held, off, n int64) (*wire.Receiving, object.Info, error) {
	w := watchdog.Watch(ctx, c.cfg.StallTimeout)
	ok := false
	defer func() {
		if !ok {
			w.End()
		}
	}()
	client := c.bucket
	var r *http.Request
	var err error
	if h.URL != "" {
		r, err = c.toBucket(w.Context(), &h.grant, nil)
	} else {
		client = c.gate
		r, err = c.toGate(w.Context(), http.MethodGet, "object/"+formatID(nm.id), c.book.file(nm.id).values(), nil)
	}
	if err != nil {
		return nil, object.Info{}, err
	}
	asked := wire.Asked{Off: off, N: n}
	if asked.Ranged() {
		r.Header.Set("Range", asked.Header())
	}
	resp, err := c.do(client, w, r)
	if err != nil {
		return nil, object.Info{}, err
	}
	defer func() {
		if !ok {
			finish(resp)
		}
	}()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		if h.URL != "" {
			return nil, object.Info{}, bucketError(resp)
		}
		return nil, object.Info{}, c.gateError(resp)
	}
	at := where(r.URL)
	left, total, nonsense := asked.Accept(resp.ContentLength, resp.Header.Get("Content-Range"))
	if resp.ContentLength < 0 {
		nonsense = "no Content-Length"
	}
	if nonsense != "" {
		return nil, object.Info{}, wire.Nonsense(at, nonsense)
	}
	info := object.Info{Key: nm.key, Size: total, ETag: strings.Trim(resp.Header.Get("ETag"), `"`), ContentType: resp.Header.Get("Content-Type")}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		info.ModTime = t
	}
	w.Pause()
	ok = true
	fail := func(err error) error {
		var known *wire.Failure
		if !errors.As(err, &known) {
			err = c.broken(w, r.URL, err)
		}
		return fail("get", nm.key, err)
	}
	return &wire.Receiving{Watch: w, Body: resp.Body, Left: left, Partial: left < resp.ContentLength, Where: at, Fail: fail}, info, nil
}

// plain reads plain bytes of a block from the gate, which gives up to maxPlain in
// one answer.
func (c *Client) plain(ctx context.Context, id block.ID, p []byte, off int64) (int, error) {
	if off+int64(len(p)) > block.MaxSize {
		return 0, io.ErrUnexpectedEOF
	}
	done := 0
	for done < len(p) {
		part := p[done:min(len(p), done+maxPlain)]
		if err := c.plainPart(ctx, id, part, off+int64(done)); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

func (c *Client) plainPart(ctx context.Context, id block.ID, p []byte, off int64) error {
	w := watchdog.Watch(ctx, c.cfg.StallTimeout)
	defer w.End()
	at := c.book.file(id)
	query := at.values()
	query.Set("off", strconv.FormatInt(off, 10))
	query.Set("len", strconv.Itoa(len(p)))
	r, err := c.toGate(w.Context(), http.MethodGet, "plain/"+formatID(id), query, nil)
	if err != nil {
		return err
	}
	resp, err := c.do(c.gate, w, r)
	if err != nil {
		return err
	}
	defer finish(resp)
	if resp.StatusCode != http.StatusOK {
		err := c.gateError(resp)
		if errors.Is(err, object.ErrNotFound) {
			c.book.forgetFile(id, at)
		}
		return err
	}
	sum, summed, err := parseSum(resp.Header.Get(sumHeader))
	if err != nil || !summed || resp.ContentLength != int64(len(p)) {
		return c.nonsense()
	}
	w.Kick()
	if _, err := io.ReadFull(resp.Body, p); err != nil {
		return c.broken(w, resp.Request.URL, err)
	}
	if crc32.Checksum(p, castagnoli) != sum {
		return fmt.Errorf("%w: plain bytes of block %d do not fit their checksum", object.ErrCorrupt, id)
	}
	return nil
}

// outgoing is the body of a Put: its checksum is known if it can be read twice.
type outgoing struct {
	body   io.Reader
	seeker io.ReadSeeker // nil: can be read once
	start  int64
	size   int64
	sum    *uint32
}

func newOutgoing(body io.Reader, size int64) (*outgoing, error) {
	out := &outgoing{body: &exact{r: body, left: size}, size: size}
	s, ok := body.(io.ReadSeeker)
	if !ok {
		return out, nil
	}
	start, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return out, nil // a pipe has the method, too
	}
	h := crc32.New(castagnoli)
	if _, err := io.Copy(h, object.Sized(s, size)); err != nil {
		return nil, err
	}
	sum := h.Sum32()
	out.seeker, out.start, out.sum = s, start, &sum
	return out, nil
}

// exact is a body of a known length: it holds its last bytes back until it knows
// that nothing follows them, because a request is complete with them.
type exact struct {
	r    io.Reader
	left int64
}

func (e *exact) Read(p []byte) (int, error) {
	if e.left == 0 || len(p) == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	switch e.left -= int64(n); {
	case err == io.EOF && e.left > 0:
		return n, fmt.Errorf("body ended %d bytes before the length announced: %w", e.left, io.ErrUnexpectedEOF)
	case err != nil && err != io.EOF:
		return n, err
	case e.left == 0 && err == nil:
		var one [1]byte
		switch m, err := io.ReadFull(e.r, one[:]); {
		case m > 0:
			return 0, fmt.Errorf("%w: body is longer than the length announced", object.ErrInvalid)
		case err != io.EOF:
			return 0, err
		}
	}
	return n, nil
}

// stopper is the body of a request that must not be read after its end.
type stopper interface {
	io.Reader
	Stop()
}

func (o *outgoing) send(w *watchdog.Dog) (stopper, error) {
	if o.seeker == nil {
		return w.Stream(o.body), nil
	}
	if _, err := o.seeker.Seek(o.start, io.SeekStart); err != nil {
		return nil, err
	}
	return w.Send(o.seeker, o.start), nil
}

// send puts an object by a grant of its own.
func (c *Client) send(ctx context.Context, n name, out *outgoing) (object.Info, error) {
	for try := 0; ; try++ {
		h, err := c.book.write(ctx, writeRequest{uint64(n.id), out.size, out.sum})
		if err != nil {
			return object.Info{}, err
		}
		info, err := c.sendBy(ctx, n, h, out)
		if h.URL != "" && errors.Is(err, object.ErrAccess) && try == 0 && out.seeker != nil {
			continue // as in get
		}
		return info, err
	}
}

func (c *Client) sendBy(ctx context.Context, n name, h *held, out *outgoing) (object.Info, error) {
	w := watchdog.Watch(ctx, c.cfg.StallTimeout)
	defer w.End()
	body, err := out.send(w)
	if err != nil {
		return object.Info{}, err
	}
	defer body.Stop()
	client := c.bucket
	var r *http.Request
	if h.URL != "" {
		r, err = c.toBucket(w.Context(), &h.grant, io.NopCloser(body))
	} else {
		client = c.gate
		r, err = c.toGate(w.Context(), http.MethodPut, "object/"+formatID(n.id), nil, io.NopCloser(body))
	}
	if err != nil {
		return object.Info{}, err
	}
	r.ContentLength = out.size
	if h.URL == "" && out.sum != nil {
		r.Header.Set(sumHeader, formatSum(*out.sum))
	}
	resp, err := c.do(client, w, r)
	if err != nil {
		return object.Info{}, err
	}
	defer finish(resp)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		if h.URL != "" {
			return object.Info{}, bucketError(resp)
		}
		return object.Info{}, c.gateError(resp)
	}
	return object.Info{Key: n.key, Size: out.size, ETag: strings.Trim(resp.Header.Get("ETag"), `"`), ModTime: time.Now()}, nil
}
