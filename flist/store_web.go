package flist

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// webStore reads blocks from a web server.
type webStore struct {
	client *http.Client
	name   string // without secrets
	paths  func(id string) []string
	token  string
}

func webClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 30 * time.Second
	t.MaxIdleConnsPerHost = 16
	return &http.Client{Transport: t, Timeout: 2 * time.Minute}
}

// openWeb opens a tree of files like that of a directory: BASE/ab/abcd…, or BASE/abcd…
func openWeb(u *url.URL) (Store, error) {
	if u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("write https://HOST/BASE, without parameters")
	}
	base := strings.TrimSuffix(u.String(), "/")
	return &webStore{client: webClient(), name: WithoutSecrets(base), paths: func(id string) []string {
		return []string{base + "/" + id[:2] + "/" + id, base + "/" + id}
	}}, nil
}

// openServer opens the block interface of an rfs server.
func openServer(nested string) (Store, error) {
	u, err := url.Parse(nested)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("write server://http://HOST:PORT, with the server's own URL behind server://")
	}
	token := u.Query().Get("token")
	u.RawQuery = ""
	base := strings.TrimSuffix(u.String(), "/")
	return &webStore{client: webClient(), name: "server://" + WithoutSecrets(base), token: token, paths: func(id string) []string {
		return []string{base + "/api/v1/block/" + id}
	}}, nil
}

func (s *webStore) String() string { return s.name }

func (s *webStore) Close() error { s.client.CloseIdleConnections(); return nil }

func (s *webStore) Get(ctx context.Context, id []byte) ([]byte, error) {
	for _, place := range s.paths(hex.EncodeToString(id)) {
		p, err := s.get(ctx, place)
		if !errors.Is(err, ErrNotFound) {
			return p, err
		}
	}
	return nil, ErrNotFound
}

func (s *webStore) get(ctx context.Context, place string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, errors.New("the URL is not well formed")
	}
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the URL, which may hold a secret
		}
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return readBlock(resp.Body)
	case http.StatusNotFound, http.StatusGone:
		return nil, ErrNotFound
	}
	return nil, fmt.Errorf("the server answers %s", resp.Status)
}

func (s *webStore) Put(context.Context, []byte, []byte) error { return ErrReadOnly }
