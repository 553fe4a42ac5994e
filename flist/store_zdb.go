package flist

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// zdbStore keeps blocks in 0-db, or in a Redis server, whose protocol 0-db speaks a
// small part of: RESP2, without HELLO and CLIENT.
type zdbStore struct {
	client *redis.Client
	name   string
}

const zdbPort = "9900"

// openZDB takes zdb://[USER][:PASSWORD@]HOST[:PORT][/NAMESPACE] and zdb:///SOCKET. The
// password opens the namespace; without a namespace it is sent as AUTH. A user name
// alone (redis://PASSWORD@HOST) is a password.
func openZDB(u *url.URL) (Store, error) {
	o := &redis.Options{
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		PoolSize:                 16, DialTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
	}
	password, _ := u.User.Password()
	if password == "" {
		password = u.User.Username()
	}
	namespace := strings.Trim(u.Path, "/")
	if u.Host == "" {
		if namespace == "" {
			return nil, fmt.Errorf("write %s://HOST:PORT/NAMESPACE or %s:///SOCKET", u.Scheme, u.Scheme)
		}
		o.Network, o.Addr, namespace = "unix", u.Path, ""
	} else {
		port := u.Port()
		if port == "" {
			port = zdbPort
		}
		o.Addr = net.JoinHostPort(u.Hostname(), port)
	}
	if len(namespace) > 128 || strings.Contains(namespace, "/") {
		return nil, errors.New("the name of a namespace has up to 128 bytes and no '/'")
	}
	if namespace != "" && namespace != "default" {
		o.OnConnect = func(ctx context.Context, cn *redis.Conn) error {
			args := []any{"SELECT", namespace}
			if password != "" {
				args = append(args, password)
			}
			return redisFault("select of namespace "+namespace, cn.Do(ctx, args...).Err())
		}
	} else {
		o.Password = password
	}
	return &zdbStore{redis.NewClient(o), WithoutSecrets(u.String())}, nil
}

// redisFault names what failed. The server's words hold no secrets: it is never told
// them but as arguments, which it does not repeat.
func redisFault(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (s *zdbStore) String() string { return s.name }
func (s *zdbStore) Close() error   { return s.client.Close() }

func (s *zdbStore) Get(ctx context.Context, id []byte) ([]byte, error) {
	p, err := s.client.Get(ctx, string(id)).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, ErrNotFound
	case err != nil:
		return nil, redisFault("get", err)
	case len(p) == 0:
		return nil, errors.New("the server gives an empty value")
	case len(p) > MaxSealed:
		return nil, errTooLong
	}
	return p, nil
}

// Put asks first, because 0-db appends whatever it is told to set.
func (s *zdbStore) Put(ctx context.Context, id, sealed []byte) error {
	n, err := s.client.Exists(ctx, string(id)).Result()
	if err != nil {
		return redisFault("exists", err)
	}
	if n > 0 {
		return nil
	}
	// 0-db answers with the key, or nil if the value was there; Redis with OK.
	err = s.client.Do(ctx, "SET", id, sealed).Err()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return redisFault("set", err)
}
