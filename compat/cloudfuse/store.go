package cloudfuse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/storeurl"
)

// storePatience bounds what a command asks the store before it mounts.
const storePatience = time.Minute

// clone is the same settings, read anew.
func (s *settings) clone() *settings {
	return &settings{values: maps.Clone(s.values), used: map[string]bool{}, file: s.file, reread: s.reread}
}

// nameKey is the key of the bucket's or container's name.
func (s *settings) nameKey() string {
	switch s.storage() {
	case "s3storage":
		return "s3storage.bucket-name"
	case "azstorage":
		return "azstorage.container"
	}
	return ""
}

// location is where the storage of the settings is, and the credentials for it.
func (s *settings) location() (*storeurl.Location, storeurl.Options, error) {
	probe := s.clone()
	if key := probe.nameKey(); key != "" && probe.text(key) == "" {
		probe.override(key, value{text: "unnamed"})
	}
	spec, err := probe.translate()
	if err != nil {
		return nil, storeurl.Options{}, fmt.Errorf("failed to initialize new pipeline: %w", err)
	}
	tree, ok := spec.Tree.Config.(*mount.BucketTree)
	if !ok {
		return nil, storeurl.Options{}, errors.New("failed to initialize new pipeline: the storage has no account")
	}
	l, err := storeurl.Parse(tree.Store)
	return l, tree.Secrets.Options(), err
}

// complete asks the store what the settings leave open: the name of an S3 bucket, which
// is that of the first one there is, and the type of an Azure account.
func (s *settings) complete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	switch {
	case s.storage() == "s3storage" && s.text("s3storage.bucket-name") == "":
		names, err := s.buckets(ctx)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return &startError{"Bucket Error", errors.New("s3storage.bucket-name is not set, and the credentials' owner has no bucket")}
		}
		s.override("s3storage.bucket-name", value{text: names[0]})
		s.warnings = append(s.warnings, "s3storage.bucket-name is not set: the first bucket is mounted, "+names[0])
	case s.storage() == "azstorage" && s.text("azstorage.type") == "" && s.text("azstorage.container") != "":
		l, o, err := s.location()
		if err != nil {
			return err
		}
		// Who may not ask that has a flat account, as far as Cloudfuse is concerned. What
		// else is wrong is found out later.
		if hierarchical, err := l.Hierarchical(ctx, o); err == nil && hierarchical {
			s.override("azstorage.type", value{text: "adls"})
		}
	}
	return nil
}

// buckets lists the buckets or containers of the account.
func (s *settings) buckets(ctx context.Context) ([]string, error) {
	l, o, err := s.location()
	if err != nil {
		return nil, err
	}
	names, err := l.Buckets(ctx, o)
	if err != nil {
		return nil, storeFailure(l.Scheme, err)
	}
	return names, nil
}

// checkStore finds out whether a mount would work, before anything is mounted.
func checkStore(ctx context.Context, spec *mount.Spec) error {
	tree, ok := spec.Tree.Config.(*mount.BucketTree)
	if !ok {
		return nil
	}
	l, err := storeurl.Parse(tree.Store)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	store, err := l.Open(ctx, tree.Secrets.Options())
	if err != nil {
		return storeFailure(l.Scheme, err)
	}
	defer store.Close()
	if err := storeurl.Check(ctx, store, false); err != nil {
		return storeFailure(l.Scheme, err)
	}
	return nil
}

// startError is an error of S3 in Cloudfuse's classes. Programs look for the class before
// the colon.
type startError struct {
	class string
	err   error
}

func (e *startError) Error() string { return e.class + ": " + e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// storeFailure begins an error of a store with the words that Cloudfuse has for it, for
// which programs look.
func storeFailure(scheme string, err error) error {
	if scheme != "s3" {
		if errors.Is(err, object.ErrAccess) {
			return fmt.Errorf("failed to authenticate credentials for azstorage: %w", err)
		}
		return fmt.Errorf("failed to initialize new pipeline: %w", err)
	}
	var coded interface{ ErrorCode() string }
	switch {
	case errors.As(err, &coded) && coded.ErrorCode() == "SignatureDoesNotMatch":
		return &startError{"Secret Error", err}
	case errors.Is(err, object.ErrNoBucket):
		return &startError{"Bucket Error", err}
	case errors.Is(err, object.ErrAccess):
		return &startError{"Credential or Endpoint Error", err}
	}
	return &startError{"Endpoint Error", err}
}
