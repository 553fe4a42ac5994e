package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Client speaks to an admin server. Its methods may be called concurrently.
// Refusals of the server are *Error.
type Client struct {
	addr  string
	token string
	http  *http.Client
	agent string
}

// requestTimeout is how long a request may take that does not wait for anything.
const requestTimeout = 30 * time.Second

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 16 << 20

// NewClient makes a client. Nothing is sent.
func NewClient(addr, token string, trust Trust) (*Client, error) {
	addr, err := Address(addr)
	if err != nil {
		return nil, err
	}
	if token, err = ParseToken(token); err != nil {
		return nil, err
	}
	config, err := trust.TLS(addr)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
	}
	return &Client{addr: addr, token: token, agent: "massif", http: &http.Client{
		Transport: transport,
		// A redirected token would go to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Addr is the server's address.
func (c *Client) Addr() string { return c.addr }

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// do sends a request and decodes the answer into out, if that is not nil.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.exchange(ctx, method, path, in, out)
}

func (c *Client) exchange(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.addr+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("User-Agent", c.agent)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("admin server %s: %w", c.addr, err)
	case len(data) > maxAnswer:
		return fmt.Errorf("admin server %s: its answer is larger than %d bytes", c.addr, maxAnswer)
	case resp.StatusCode >= 300:
		return c.refusal(resp, data)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("admin server %s: its answer is not understood: %w", c.addr, err)
	}
	return nil
}

func (c *Client) refusal(resp *http.Response, data []byte) error {
	e := &Error{Status: resp.StatusCode}
	if json.Unmarshal(data, e) != nil || e.Message == "" {
		return fmt.Errorf("admin server %s answers with %s: is it one?", c.addr, resp.Status)
	}
	return e
}

// explain shortens what the HTTP library says: it repeats method and URL.
func (c *Client) explain(err error) error {
	var pin *PinError
	if errors.As(err, &pin) {
		return pin
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if v := explainVerify(err, c.addr); v != nil && strings.Contains(v.Error(), "--host") {
		return v
	}
	return fmt.Errorf("admin server %s: %w", c.addr, explainDial(err))
}

// IsStatus tells whether err is a refusal with one of the codes.
func IsCode(err error, codes ...string) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.Code == code {
			return true
		}
	}
	return false
}

// Whoami asks what the token is.
func (c *Client) Whoami(ctx context.Context) (*Whoami, error) {
	var w Whoami
	return &w, c.do(ctx, http.MethodGet, "/v1/whoami", nil, &w)
}

func entityPath(table, id string) string { return "/v1/" + table + "/" + url.PathEscape(id) }

// Get reads an entity by ID or name into out, a pointer to its type.
func (c *Client) Get(ctx context.Context, table, id string, out any) error {
	return c.do(ctx, http.MethodGet, entityPath(table, id), nil, out)
}

// Create makes an entity of fields and reads what was made into out.
func (c *Client) Create(ctx context.Context, table string, fields map[string]any, out any) error {
	return c.do(ctx, http.MethodPost, "/v1/"+table, fields, out)
}

// Update changes the named fields and reads the result into out.
func (c *Client) Update(ctx context.Context, table, id string, fields map[string]any, out any) error {
	return c.do(ctx, http.MethodPatch, entityPath(table, id), fields, out)
}

// Delete removes an entity.
func (c *Client) Delete(ctx context.Context, table, id string) error {
	return c.do(ctx, http.MethodDelete, entityPath(table, id), nil, nil)
}

// ListAll reads a table to its end, calling fn with the JSON of each entity.
func (c *Client) ListAll(ctx context.Context, table string, query url.Values, fn func(json.RawMessage) error) error {
	q := url.Values{}
	for k, v := range query {
		q[k] = v
	}
	for {
		var page List[json.RawMessage]
		if err := c.do(ctx, http.MethodGet, "/v1/"+table+"?"+q.Encode(), nil, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			if err := fn(item); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		q.Set("after", page.Next)
	}
}

// Mount asks, with the token of a volume, how to mount it. An empty name stands
// for whichever volume the token is of.
func (c *Client) Mount(ctx context.Context) (*MountSettings, error) {
	var s MountSettings
	return &s, c.do(ctx, http.MethodGet, "/v1/mount", nil, &s)
}

// SetSeal sets the wrapped keys of the token's volume. Error code "conflict" means
// that they are not old any more.
func (c *Client) SetSeal(ctx context.Context, change SealChange) error {
	return c.do(ctx, http.MethodPut, "/v1/mount/seal", change, nil)
}

// Served asks, with the token of a metadata server, for its volumes.
func (c *Client) Served(ctx context.Context) (*ServedVolumes, error) {
	var s ServedVolumes
	return &s, c.do(ctx, http.MethodGet, "/v1/serve/volumes", nil, &s)
}

// Authenticate asks what the token that somebody showed to a metadata server
// allows.
func (c *Client) Authenticate(ctx context.Context, r AuthRequest) (*Grant, error) {
	var g Grant
	return &g, c.do(ctx, http.MethodPost, "/v1/serve/authenticate", r, &g)
}

// Events waits up to wait for events after a sequence number.
func (c *Client) Events(ctx context.Context, after uint64, wait time.Duration) (*Events, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+requestTimeout)
	defer cancel()
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "wait": {strconv.Itoa(int(wait / time.Second))}}
	var e Events
	return &e, c.exchange(ctx, http.MethodGet, "/v1/serve/events?"+q.Encode(), nil, &e)
}

// Certify asks for a certificate for a metadata server.
func (c *Client) Certify(ctx context.Context, csr string) (*Certificate, error) {
	var cert Certificate
	return &cert, c.do(ctx, http.MethodPost, "/v1/serve/certificate", CertificateRequest{CSR: csr}, &cert)
}

// Purged tells, with the token of a metadata server, that the data of a retired volume
// is removed.
func (c *Client) Purged(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, entityPath("serve/volumes", id), nil, nil)
}
