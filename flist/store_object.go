package flist

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net/url"
	"strings"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/s3"
	"github.com/massif-fs/massif/object/storeurl"
)

// objectStore keeps a block as the object that has its id in hexadecimal as key.
type objectStore struct {
	store object.Store
	name  string
}

// openBucket takes s3://KEY:SECRET@HOST:PORT/BUCKET?region=R, and s3s:// for TLS.
// Without KEY and SECRET the environment's are used.
func openBucket(ctx context.Context, u *url.URL) (Store, error) {
	scheme := "http"
	if u.Scheme != "s3" {
		scheme = "https"
	}
	bucket, rest, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if u.Host == "" || bucket == "" || rest != "" {
		return nil, errors.New("write s3://KEY:SECRET@HOST:PORT/BUCKET")
	}
	c := s3.Config{Bucket: bucket, Endpoint: scheme + "://" + u.Host, Region: u.Query().Get("region"), PathStyle: true}
	if u.User != nil {
		secret, _ := u.User.Password()
		c.Credentials = &s3.Credentials{AccessKey: u.User.Username(), SecretKey: secret}
	}
	s, err := s3.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	return &objectStore{s, WithoutSecrets(u.String())}, nil
}

func openObjects(ctx context.Context, rawURL string) (Store, error) {
	s, err := storeurl.Open(ctx, rawURL, storeurl.Options{Create: true})
	if err != nil {
		return nil, err
	}
	return &objectStore{s, s.String()}, nil
}

func (s *objectStore) String() string { return s.name }
func (s *objectStore) Close() error   { return s.store.Close() }

func (s *objectStore) Get(ctx context.Context, id []byte) ([]byte, error) {
	body, info, err := s.store.Get(ctx, hex.EncodeToString(id), 0, -1)
	switch {
	case errors.Is(err, object.ErrNotFound):
		return nil, ErrNotFound
	case err != nil:
		return nil, err
	}
	defer body.Close()
	if info.Size > int64(MaxSealed) {
		return nil, errTooLong
	}
	return readBlock(body)
}

func (s *objectStore) Put(ctx context.Context, id, sealed []byte) error {
	key := hex.EncodeToString(id)
	if info, err := s.store.Head(ctx, key); err == nil && info.Size == int64(len(sealed)) {
		return nil
	}
	_, err := s.store.Put(ctx, key, bytes.NewReader(sealed), int64(len(sealed)), nil)
	return err
}
