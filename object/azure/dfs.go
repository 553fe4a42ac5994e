package azure

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/massif-fs/massif/object/watchdog"
)

// lakeVersion is that of the Data Lake protocol which is spoken here.
const lakeVersion = "2021-12-02"

// lakeRequest is a request of the Data Lake protocol. None has a body.
type lakeRequest struct {
	method string
	path   string // in the container, "" for the container itself
	query  url.Values
	header map[string]string
}

// lake makes a request, watched by w, and returns its answer, whose body the
// caller closes. An answer that is no success is an error.
func (s *Store) lake(w *watchdog.Dog, r lakeRequest) (*http.Response, error) {
	target := s.cfg.lakeURL()
	if r.path != "" {
		target += "/" + escapePath(r.path)
	}
	sas, _, err := s.auth.sas()
	if err != nil {
		return nil, err
	}
	query := r.query.Encode()
	if sas != "" {
		query = strings.Trim(query+"&"+sas, "&")
	}
	if query != "" {
		target += "?" + query
	}
	req, err := runtime.NewRequest(w.Context(), r.method, target)
	if err != nil {
		return nil, invalid("%s: the request has no URL", s.where)
	}
	h := req.Raw().Header
	h.Set("x-ms-version", lakeVersion)
	h.Set("x-ms-date", time.Now().UTC().Format(http.TimeFormat))
	for name, value := range r.header {
		h.Set(name, value)
	}
	if src := r.header["x-ms-rename-source"]; src != "" && sas != "" {
		h.Set("x-ms-rename-source", src+"?"+sas)
	}
	resp, err := s.lakePipeline().Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		defer resp.Body.Close()
		code := resp.Header.Get("x-ms-error-code")
		return nil, s.explainAnswer(resp, code, resp.StatusCode)
	}
	return resp, nil
}

// lakeDo is lake for an answer of which only the headers matter.
func (s *Store) lakeDo(ctx context.Context, op, key string, r lakeRequest) (http.Header, error) {
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	resp, err := s.lake(w, r)
	if err != nil {
		return nil, s.fail(op, key, w, err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, mib))
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	return resp.Header, s.fail(op, key, w, err)
}

func (s *Store) lakePipeline() runtime.Pipeline {
	var auth policy.Policy
	o := s.options()
	switch {
	case s.auth.key != nil:
		auth = &sharedKey{s}
	case s.auth.token != nil:
		auth = runtime.NewBearerTokenPolicy(s.auth.token, []string{storageScope}, nil)
	}
	var retry []policy.Policy
	if auth != nil {
		retry = append(retry, auth)
	}
	return runtime.NewPipeline("massif", "1", runtime.PipelineOptions{PerRetry: retry}, &o)
}

// escapePath escapes what a path in a URL cannot hold, but for '/'.
func escapePath(p string) string {
	parts := strings.Split(p, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/")
}

// sharedKey signs requests with the account's key ("Authorize with Shared Key" of
// the service's REST reference).
type sharedKey struct{ s *Store }

func (k *sharedKey) Do(req *policy.Request) (*http.Response, error) {
	r := req.Raw()
	h := hmac.New(sha256.New, k.s.auth.secret)
	_, _ = io.WriteString(h, stringToSign(r, k.s.cfg.Account)) // a hash never fails
	r.Header.Set("Authorization", fmt.Sprintf("SharedKey %s:%s", k.s.cfg.Account, base64.StdEncoding.EncodeToString(h.Sum(nil))))
	return req.Next()
}

// stringToSign is what is signed of a request without a body.
func stringToSign(r *http.Request, account string) string {
	var b strings.Builder
	b.WriteString(r.Method)
	b.WriteByte('\n')
	for _, name := range []string{
		"Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type", "Date",
		"If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range",
	} {
		v := r.Header.Get(name)
		if name == "Content-Length" && v == "0" {
			v = ""
		}
		b.WriteString(v)
		b.WriteByte('\n')
	}
	var names []string
	for name := range r.Header {
		if strings.HasPrefix(strings.ToLower(name), "x-ms-") {
			names = append(names, strings.ToLower(name))
		}
	}
	slices.Sort(names)
	for _, name := range names {
		b.WriteString(name + ":" + strings.TrimSpace(r.Header.Get(name)) + "\n")
	}
	b.WriteString("/" + account + r.URL.EscapedPath())
	query := r.URL.Query()
	names = names[:0]
	for name := range query {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		values := query[name]
		slices.Sort(values)
		b.WriteString("\n" + strings.ToLower(name) + ":" + strings.Join(values, ","))
	}
	return b.String()
}

// properties is metadata as the Data Lake protocol writes it.
func properties(meta map[string]string) string {
	var parts []string
	for k, v := range meta {
		parts = append(parts, k+"="+base64.StdEncoding.EncodeToString([]byte(v)))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// parseProperties is the inverse of properties. What is malformed is left out.
func parseProperties(s string) map[string]*string {
	out := make(map[string]*string)
	for part := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(part, "=")
		if !ok {
			continue
		}
		p, err := base64.StdEncoding.DecodeString(strings.TrimSpace(v))
		if err != nil {
			continue
		}
		text := string(p)
		out[strings.TrimSpace(k)] = &text
	}
	return out
}

func headerInfo(key string, h http.Header) (*azcore.ETag, *time.Time) {
	tag := azcore.ETag(h.Get("ETag"))
	mod, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return &tag, nil
	}
	return &tag, &mod
}
