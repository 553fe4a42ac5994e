package gcs

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"github.com/massif-fs/massif/object/wire"
)

// request is a request to the service.
type request struct {
	method string
	url    string
	query  url.Values
	header http.Header
	body   io.Reader
	size   int64 // of body
}

// objectURL is that of an object's resource. Names are escaped as a whole, '/' too.
func (s *Store) objectURL(key string) string {
	return s.bucketURL() + "/o/" + url.PathEscape(s.cfg.Prefix+key)
}

func (s *Store) bucketURL() string {
	return s.cfg.Endpoint + "/storage/v1/b/" + url.PathEscape(s.cfg.Bucket)
}

// do makes a request, watched by w. An answer that is no success is an error,
// explained; of a success the caller closes the body.
func (s *Store) do(w *watchdog.Dog, r request) (*http.Response, error) {
	if s.cfg.UserProject != "" {
		if r.query == nil {
			r.query = make(url.Values)
		}
		r.query.Set("userProject", s.cfg.UserProject)
	}
	target := r.url
	if q := r.query.Encode(); q != "" {
		sep := "?"
		if strings.Contains(target, "?") {
			sep = "&"
		}
		target += sep + q
	}
	req, err := http.NewRequestWithContext(w.Context(), r.method, target, nil)
	if err != nil {
		return nil, invalid("%s: the request has no URL", s.where)
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	if r.body != nil {
		req.ContentLength = r.size
		req.Body = io.NopCloser(r.body)
		if r.size == 0 {
			req.Body = http.NoBody
		}
	}
	agent := "massif"
	if s.cfg.UserAgent != "" {
		agent = s.cfg.UserAgent
	}
	req.Header.Set("User-Agent", agent)
	token, err := s.auth.token(w.Context())
	if err != nil {
		if cause := wire.Explain(w, s.where); cause != nil {
			return nil, cause
		}
		return nil, s.explainToken(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 || resp.StatusCode == statusResume && r.header.Get("Content-Range") != "" {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, s.explainAnswer(resp)
}

// statusResume is the answer to a part of a resumable upload but the last.
const statusResume = 308

// object is a resource of the JSON interface. Numbers of 64 bits are strings there.
type resource struct {
	Kind         string            `json:"kind,omitempty"`
	Name         string            `json:"name,omitempty"`
	Size         uint64            `json:"size,string,omitempty"`
	Generation   uint64            `json:"generation,string,omitempty"`
	Updated      string            `json:"updated,omitempty"`
	ContentType  string            `json:"contentType,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	StorageClass string            `json:"storageClass,omitempty"`
	CRC32C       string            `json:"crc32c,omitempty"`
}

// call makes a request whose answer is JSON.
func (s *Store) call(ctx context.Context, op, key string, r request, slow bool, answer any) error {
	limit := s.cfg.StallTimeout
	if slow {
		limit = s.cfg.SlowTimeout
	}
	w := watchdog.Watch(ctx, limit)
	defer w.End()
	resp, err := s.do(w, r)
	if err != nil {
		return s.fail(op, key, w, err)
	}
	return s.fail(op, key, w, s.decode(resp, answer))
}

// maxAnswer is the most of an answer that is read: a page of a listing has 1000
// objects with up to 8 KiB of metadata each.
const maxAnswer = 64 * mib

func (s *Store) decode(resp *http.Response, answer any) error {
	defer resp.Body.Close()
	p, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(p, answer); err != nil {
		return wire.Nonsense(s.where, "not JSON")
	}
	return nil
}

// fail makes the *object.Error of a failed request. w is the request's watchdog.
func (s *Store) fail(op, key string, w *watchdog.Dog, err error) error {
	if err == nil {
		return nil
	}
	if cause := wire.Explain(w, s.where); cause != nil {
		return &object.Error{Op: op, Key: key, Err: cause}
	}
	var known *wire.Failure
	if !errors.As(err, &known) {
		err = wire.ExplainNetwork(s.where, err)
	}
	return &object.Error{Op: op, Key: key, Err: err}
}

// codeError is what the service said.
type codeError struct {
	reason string
	status int
}

func (e *codeError) Error() string { return fmt.Sprintf("%s (HTTP %d)", e.reason, e.status) }

// meanings of the reasons of the JSON interface and of the codes of the XML one.
var meanings = map[string]wire.Meaning{
	"NoSuchKey":               wire.Means(object.ErrNotFound, ""),
	"NoSuchBucket":            wire.Means(object.ErrNoBucket, ""),
	"authError":               wire.Means(object.ErrAccess, "the token is wrong or has expired"),
	"expired":                 wire.Means(object.ErrAccess, "the token has expired"),
	"required":                wire.Means(object.ErrAccess, "the bucket is not open to everybody, and there are no credentials"),
	"forbidden":               wire.Means(object.ErrAccess, "the identity does not have the permission for this"),
	"insufficientPermissions": wire.Means(object.ErrAccess, "the identity does not have the permission for this"),
	"AccessDenied":            wire.Means(object.ErrAccess, "the identity does not have the permission for this"),
	"AuthenticationRequired":  wire.Means(object.ErrAccess, "the token is wrong or has expired, or there is none"),
	"accountDisabled":         wire.Means(object.ErrAccess, "the account is disabled or does not pay"),
	"UserProjectMissing":      wire.Means(object.ErrAccess, "the bucket wants to know which project pays"),
	"userProjectMissing":      wire.Means(object.ErrAccess, "the bucket wants to know which project pays"),
	"UserProjectAccountProblem": wire.Means(object.ErrAccess,
		"the project that is to pay cannot"),
	"userProjectAccountProblem": wire.Means(object.ErrAccess, "the project that is to pay cannot"),
	"UserProjectAccessDenied":   wire.Means(object.ErrAccess, "the identity may not let that project pay"),
	"userProjectAccessDenied":   wire.Means(object.ErrAccess, "the identity may not let that project pay"),
	"retentionPolicyNotMet":     wire.Means(object.ErrAccess, "the object is kept unchanged by a policy"),
	"objectUnderActiveHold":     wire.Means(object.ErrAccess, "the object is held"),
	"conditionNotMet":           wire.Means(object.ErrPrecondition, ""),
	"rateLimitExceeded":         wire.Means(object.ErrUnavailable, "the server asks for fewer requests"),
	"userRateLimitExceeded":     wire.Means(object.ErrUnavailable, "the server asks for fewer requests"),
	"SlowDown":                  wire.Means(object.ErrUnavailable, "the server asks for fewer requests"),
	"quotaExceeded":             wire.Means(object.ErrUnavailable, "the project's quota of requests is used up"),
	"backendError":              wire.Means(object.ErrUnavailable, "the server failed"),
	"internalError":             wire.Means(object.ErrUnavailable, "the server failed"),
	"uploadBrokenConnection":    wire.Means(object.ErrUnavailable, "the connection was closed"),
}

// explainAnswer makes a sentence of an answer that is no success.
func (s *Store) explainAnswer(resp *http.Response) error {
	status := resp.StatusCode
	p, _ := io.ReadAll(io.LimitReader(resp.Body, 64*kib)) // of a broken answer the status tells enough
	reason, msg := parseError(p)
	m, ok := meanings[reason]
	switch {
	case ok:
	case status == http.StatusNotFound && strings.Contains(strings.ToLower(msg), "bucket"):
		m = meanings["NoSuchBucket"]
	case status == http.StatusUnauthorized && s.cfg.Anonymous:
		m = meanings["required"]
	case status == http.StatusUnauthorized:
		m = meanings["authError"]
	case status == http.StatusGone:
		m = wire.Means(object.ErrUnavailable, "the upload is over")
	case status == http.StatusBadRequest && strings.Contains(msg, "does not match"):
		m = wire.Means(object.ErrUnavailable, "the data was damaged on its way to the server")
	default:
		m = wire.ByStatus(status)
	}
	detail := fmt.Sprintf("HTTP %d", status)
	if reason != "" {
		detail = reason + ", " + detail
	}
	if msg != "" && (!ok || m.Text == "") && m.Kind != object.ErrNotFound && !strings.Contains(msg, "://") {
		detail += ": " + msg
	}
	return m.Failure(s.where, detail, resp.Header.Get("X-Guploader-Uploadid"), &codeError{reason, status})
}

// parseError reads an error of the JSON or of the XML interface.
func parseError(p []byte) (reason, msg string) {
	var doc struct {
		Error struct {
			Message string
			Errors  []struct{ Reason, Message string }
		}
	}
	var x struct{ Code, Message string }
	switch {
	case json.Unmarshal(p, &doc) == nil:
		msg = doc.Error.Message
		if len(doc.Error.Errors) > 0 {
			reason = doc.Error.Errors[0].Reason
			if msg == "" {
				msg = doc.Error.Errors[0].Message
			}
		}
	case xml.Unmarshal(p, &x) == nil:
		reason, msg = x.Code, x.Message
	}
	msg, _, _ = strings.Cut(strings.TrimSpace(msg), "\n")
	if len(msg) > 300 {
		msg = ""
	}
	if len(reason) > 60 {
		reason = ""
	}
	return reason, msg
}

// conditionError says what a failed condition means for the caller's options.
func conditionError(err error, opts *object.PutOptions) error {
	var oe *object.Error
	if !errors.As(err, &oe) {
		return err
	}
	switch {
	case opts.IfAbsent && errors.Is(err, object.ErrPrecondition):
		oe.Err = object.ErrExists
	case opts.IfMatch != "" && (errors.Is(err, object.ErrPrecondition) || errors.Is(err, object.ErrNotFound)):
		oe.Err = object.ErrPrecondition
	}
	return err
}
