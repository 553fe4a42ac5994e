package azure

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
)

// Check finds out whether the container is there and can be used, so that whoever
// configured it learns what is wrong before any data is at stake. With write it
// puts, reads and deletes a small object below the prefix.
func (s *Store) Check(ctx context.Context, write bool) error { return check(ctx, s, write) }

func check(ctx context.Context, s object.Store, write bool) error {
	if _, err := s.List(ctx, object.ListOptions{Limit: 1}); err != nil {
		return asCheck(err)
	}
	if !write {
		return nil
	}
	key := "massif-check-" + rand.Text()
	if _, err := s.Put(ctx, key, bytes.NewReader([]byte("massif")), 6, nil); err != nil {
		return err
	}
	p := make([]byte, 6)
	_, err := object.ReadRange(ctx, s, key, p, 0)
	if err == nil && string(p) != "massif" {
		err = &object.Error{Op: "check", Key: key, Err: fmt.Errorf("%w: the store returned other bytes than were put", object.ErrCorrupt)}
	}
	if err == nil {
		_, err = s.Put(ctx, key, bytes.NewReader([]byte("massif")), 6, &object.PutOptions{IfAbsent: true})
		if err == nil {
			err = &object.Error{Op: "check", Key: key, Err: fmt.Errorf("%w: the server ignores conditions", object.ErrUnsupported)}
		} else if errors.Is(err, object.ErrExists) {
			err = nil
		}
	}
	return errors.Join(err, s.Delete(context.WithoutCancel(ctx), key))
}

func asCheck(err error) error {
	var oe *object.Error
	if errors.As(err, &oe) {
		return &object.Error{Op: "check", Err: oe.Err}
	}
	return err
}

// Hierarchical asks the service whether the account of cfg has a hierarchical
// namespace. Credentials that may not ask that give ErrAccess.
func Hierarchical(ctx context.Context, cfg Config) (bool, error) {
	cfg.Hierarchical = false
	s, err := open(cfg)
	if err != nil {
		return false, &object.Error{Op: "open", Err: err}
	}
	defer s.Close()
	return s.hierarchical(ctx)
}

func (s *Store) hierarchical(ctx context.Context) (bool, error) {
	const op = "account information"
	c, err := s.container()
	if err != nil {
		return false, &object.Error{Op: op, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	out, err := c.GetAccountInfo(w.Context(), nil)
	if err != nil {
		return false, s.fail(op, "", w, err)
	}
	return out.IsHierarchicalNamespaceEnabled != nil && *out.IsHierarchicalNamespaceEnabled, nil
}
