package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// route is a request that the server answers. The OpenAPI document is made of the
// same table.
type route struct {
	method, path string
	summary      string
	kind         string   // of token that it takes; "": none at all, "any": any
	in, out      any      // zero values of what goes in and comes out; nil: nothing
	query        []string // parameters, as "name: what it says"
	status       int      // of success
	table        string   // of the entity, if there is one

	handle func(s *Server, q *request) (any, error)
}

// request is one request under way.
type request struct {
	ctx   context.Context
	who   *who
	route *route
	id    string     // of the path
	query url.Values // of the URL
	body  []byte
	now   time.Time
}

// maxBody bounds the body of a request, in bytes.
const maxBody = 64 << 10

var queryOfLists = []string{
	"limit: at most so many, 1 to 1000 (default 200)",
	"after: value of \"next\" of the page before",
}

// routeTable lists all routes.
func routeTable() []*route {
	routes := []*route{
		{method: "GET", path: "/v1/openapi.json", summary: "This document", status: 200, handle: (*Server).getOpenAPI},
		{method: "GET", path: "/v1/health", summary: "Whether the server works", status: 200, out: Health{}, handle: (*Server).getHealth},
		{method: "GET", path: "/v1/whoami", summary: "What the token is", kind: "any", status: 200, out: adminapi.Whoami{}, handle: (*Server).getWhoami},
		{method: "GET", path: "/v1/audit", summary: "The audit log", kind: adminapi.TokenAccount, status: 200, out: adminapi.List[adminapi.AuditRecord]{}, query: queryOfLists, handle: (*Server).getAudit},
		{method: "GET", path: "/v1/mount", summary: "How to mount the volume of the token", kind: adminapi.TokenVolume, status: 200, out: adminapi.MountSettings{}, handle: (*Server).getMount},
		{method: "PUT", path: "/v1/mount/seal", summary: "Set the wrapped keys of an encrypted volume", kind: adminapi.TokenVolume, status: 204, in: adminapi.SealChange{}, handle: (*Server).putSeal},
		{method: "GET", path: "/v1/serve/volumes", summary: "The volumes of the metadata server", kind: adminapi.TokenMetadataServer, status: 200, out: adminapi.ServedVolumes{}, handle: (*Server).getServed},
		{method: "DELETE", path: "/v1/serve/volumes/{id}", summary: "Tell that the data of a retired volume is removed", kind: adminapi.TokenMetadataServer, status: 204, handle: (*Server).deleteServed},
		{method: "POST", path: "/v1/serve/authenticate", summary: "What a token allows", kind: adminapi.TokenMetadataServer, status: 200, in: adminapi.AuthRequest{}, out: adminapi.Grant{}, handle: (*Server).postAuthenticate},
		{method: "GET", path: "/v1/serve/events", summary: "Wait for changes of tokens and volumes", kind: adminapi.TokenMetadataServer, status: 200, out: adminapi.Events{},
			query: []string{"after: number of the last event that is known", "wait: how many seconds to wait for one, at most 60"}, handle: (*Server).getEvents},
		{method: "POST", path: "/v1/serve/certificate", summary: "A certificate for the metadata server", kind: adminapi.TokenMetadataServer, status: 200, in: adminapi.CertificateRequest{}, out: adminapi.Certificate{}, handle: (*Server).postCertificate},
	}
	for _, sc := range adminapi.Schemas() {
		one := reflect.ValueOf(sc.New()).Elem().Interface()
		name := strings.ReplaceAll(sc.One, "-", " ")
		routes = append(routes,
			&route{method: "GET", path: "/v1/" + sc.Table, table: sc.Table, summary: "List " + strings.ReplaceAll(sc.Table, "-", " "), kind: adminapi.TokenAccount, status: 200, out: listOf(one), query: append([]string{"retired: true shows deleted and revoked ones too"}, queryOfLists...), handle: (*Server).list},
			&route{method: "POST", path: "/v1/" + sc.Table, table: sc.Table, summary: "Make a " + name, kind: adminapi.TokenAccount, status: 201, in: one, out: one, handle: (*Server).create},
			&route{method: "GET", path: "/v1/" + sc.Table + "/{id}", table: sc.Table, summary: "Show a " + name, kind: adminapi.TokenAccount, status: 200, out: one, handle: (*Server).get},
			&route{method: "PATCH", path: "/v1/" + sc.Table + "/{id}", table: sc.Table, summary: "Change fields of a " + name, kind: adminapi.TokenAccount, status: 200, in: one, out: one, handle: (*Server).update},
			&route{method: "DELETE", path: "/v1/" + sc.Table + "/{id}", table: sc.Table, summary: "Delete a " + name, kind: adminapi.TokenAccount, status: 204, handle: (*Server).remove},
		)
	}
	return routes
}

// listOf makes the zero value of a listing of v's type, for the document.
func listOf(v any) any {
	switch v.(type) {
	case adminapi.Account:
		return adminapi.List[adminapi.Account]{}
	case adminapi.Store:
		return adminapi.List[adminapi.Store]{}
	case adminapi.MetadataServer:
		return adminapi.List[adminapi.MetadataServer]{}
	case adminapi.ProxyGroup:
		return adminapi.List[adminapi.ProxyGroup]{}
	case adminapi.Volume:
		return adminapi.List[adminapi.Volume]{}
	}
	return adminapi.List[adminapi.Token]{}
}

// Health is the answer to a probe.
type Health struct {
	OK      bool   `json:"ok" doc:"always true: who cannot answer does not"`
	Version string `json:"version,omitempty" doc:"of the server"`
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for _, r := range routeTable() {
		pattern := r.method + " " + r.path
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			began := time.Now()
			status := s.answer(r, w, req)
			s.requests.Record(pattern, status, time.Since(began))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		s.requests.Record("other", http.StatusNotFound, 0)
		writeJSON(w, http.StatusNotFound, refuse(adminapi.CodeNotFound, "there is nothing at this path; /v1/openapi.json lists the requests"))
	})
	return mux
}

// answer runs a request from its token to its answer, and returns the status of it.
func (s *Server) answer(r *route, w http.ResponseWriter, req *http.Request) int {
	q := &request{ctx: req.Context(), route: r, id: req.PathValue("id"), query: req.URL.Query(), now: s.now()}
	out, err := func() (any, error) {
		if r.kind != "" {
			var err error
			if q.who, err = s.authenticate(q.ctx, w, req); err != nil {
				return nil, err
			}
			if r.kind != "any" && q.who.token.Kind != r.kind {
				return nil, refuse(adminapi.CodeForbidden, "this takes a token of the kind %s; this one is of the kind %s", r.kind, q.who.token.Kind)
			}
		}
		if r.in != nil {
			var err error
			if q.body, err = io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody)); err != nil {
				var tooLarge *http.MaxBytesError
				if errors.As(err, &tooLarge) {
					return nil, refuse(adminapi.CodeTooLarge, "the request is larger than %d bytes", maxBody)
				}
				return nil, invalid("the request's body did not arrive whole")
			}
		}
		return r.handle(s, q)
	}()
	if err != nil {
		return s.refuse(w, q, err)
	}
	if raw, ok := out.([]byte); ok {
		w.Header().Set("Content-Type", "application/json")
		w.Write(raw)
		return http.StatusOK
	}
	if r.out == nil {
		w.WriteHeader(r.status)
		return r.status
	}
	writeJSON(w, r.status, out)
	return r.status
}

// clientGone is the status, for metrics, of a request that nobody waits for any more.
const clientGone = 499

// refuse answers a request that is not granted, and keeps a record of it where
// somebody known wanted to change something. It returns the status.
func (s *Server) refuse(w http.ResponseWriter, q *request, err error) int {
	e, ours := asRefusal(err)
	if !ours {
		if q.ctx.Err() != nil {
			return clientGone
		}
		s.log.Error("request failed", "method", q.route.method, "path", q.route.path, "err", err)
	}
	if q.who != nil && q.route.method != "GET" && q.route.path != "/v1/serve/authenticate" {
		result := "refused"
		if !ours {
			result = "failed"
		}
		s.audit(adminapi.AuditRecord{
			Time: q.now, Token: q.who.token.ID, Account: q.who.token.Account, Remote: q.who.remote,
			Action: actionOf(q.route), Table: q.route.table, Entity: cut(q.id, 63), Result: result, Detail: cut(e.Message, 500),
		})
	}
	writeJSON(w, e.Status, e)
	return e.Status
}

func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "?")
}

func actionOf(r *route) string {
	switch {
	case r.path == "/v1/mount/seal":
		return "seal"
	case r.path == "/v1/serve/certificate":
		return "certificate"
	case r.method == "POST":
		return "create"
	case r.method == "DELETE":
		return "delete"
	}
	return "update"
}

// audit writes a record of its own transaction. It must not stop the request.
func (s *Server) audit(a adminapi.AuditRecord) {
	err := s.db.Update(context.Background(), func(w kv.Txn) error { return appendAudit(w, a) })
	if err != nil {
		s.log.Error("audit record is lost", "action", a.Action, "err", err)
	}
}

// authenticate finds who sends a request.
func (s *Server) authenticate(ctx context.Context, w http.ResponseWriter, req *http.Request) (*who, error) {
	secret, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	if !ok {
		w.Header().Set("WWW-Authenticate", `Bearer realm="massif"`)
		return nil, refuse(adminapi.CodeUnauthorized, "the request carries no token (Authorization: Bearer TOKEN)")
	}
	hash := adminapi.TokenHash(strings.ToLower(strings.TrimSpace(secret)))
	if wait := s.limit.wait(req.RemoteAddr, hash); wait > 0 {
		s.failures.delayed.Add(1)
		w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
		return nil, refuse(adminapi.CodeTooMany, "too many wrong tokens came from this address; try again in %d seconds", int(wait/time.Second)+1)
	}
	var found *who
	err := s.db.View(ctx, func(r kv.Reader) (err error) {
		found, err = recognize(r, secret, s.now())
		return err
	})
	if err != nil {
		e, ours := asRefusal(err)
		if !ours {
			return nil, err
		}
		s.limit.forget(hash)
		s.limit.failed(req.RemoteAddr)
		s.failures.refused.Add(1)
		a := adminapi.AuditRecord{Time: s.now(), Remote: req.RemoteAddr, Action: "authenticate", Result: "refused", Detail: e.Message}
		if found != nil {
			a.Token, a.Account = found.token.ID, found.token.Account
		}
		s.audit(a)
		w.Header().Set("WWW-Authenticate", `Bearer realm="massif", error="invalid_token"`)
		return nil, e
	}
	s.limit.succeeded(hash)
	found.remote = req.RemoteAddr
	s.touch(found.token)
	return found, nil
}

// touch remembers when a token was used, to the hour, which is one write an hour.
func (s *Server) touch(t *adminapi.Token) {
	hour := s.now().Truncate(time.Hour)
	if t.LastUsed != nil && !t.LastUsed.Before(hour) {
		return
	}
	err := s.db.Update(context.Background(), func(w kv.Txn) error {
		now, err := read[adminapi.Token](w, adminapi.TableTokens, t.ID)
		if err != nil {
			return err
		}
		now.LastUsed = &hour
		return putJSON(w, entityKey(adminapi.TableTokens, t.ID), now)
	})
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		s.log.Warn("use of a token is not recorded", "token", t.ID, "err", err)
	}
}
