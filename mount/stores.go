package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/retry"
	"github.com/massif-fs/massif/object/storeurl"
)

// farFuture is later than the start of any upload.
var farFuture = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// storePatience is how long a remote store that fails is tried again.
const storePatience = 30 * time.Second

// openStore opens the object store of a URL.
func openStore(ctx context.Context, url string) (object.Store, error) {
	return storeurl.Open(ctx, url, storeurl.Options{UserAgent: "massif"})
}

// openPatientStore opens the store of a volume in use: what fails for a while on
// the way to a remote one is tried again, for so long that programs do not notice a
// server's restart, and not so long that they seem to hang.
func openPatientStore(ctx context.Context, url string) (object.Store, error) {
	s, err := openStore(ctx, url)
	if err == nil && s.Capabilities().Remote {
		s = retry.New(s, retry.Options{Total: storePatience})
	}
	return s, err
}

// localDir returns the directory of a store URL, if it is a local one.
func localDir(url string) (string, bool) {
	l, err := storeurl.Parse(url)
	if err != nil || l.Scheme != "file" {
		return "", false
	}
	return l.Path, true
}

// checkStoreURL refuses what cannot be a volume's store.
func checkStoreURL(url string) error {
	l, err := storeurl.Parse(url)
	switch {
	case err != nil:
		return &UsageError{err}
	case l.Scheme == "mem":
		return &UsageError{errors.New("a mem:// store ends with the process that has it; a volume needs file:///DIR, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX")}
	case l.Scheme == "file" && l.Path == "/":
		return &UsageError{errors.New("store: the root directory cannot be a store")}
	}
	return nil
}

// makeStoreDir makes the directory of a local store and returns what it made.
func makeStoreDir(url string) (made []string, err error) {
	dir, ok := localDir(url)
	if !ok {
		return nil, nil
	}
	made, err = makeDirs(dir)
	if err != nil {
		return made, fmt.Errorf("store: %w", err)
	}
	return made, nil
}

// storeOwnDir is where the file driver keeps its own files in a store.
const storeOwnDir = ".massif"

// refuseForeignFiles refuses a local store in a directory that holds anything but
// an empty store. Whose files they are is told from the objects later.
func refuseForeignFiles(url string) error {
	dir, ok := localDir(url)
	if !ok {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if len(entries) == 0 || exists(filepath.Join(dir, storeOwnDir)) {
		return nil // new, or a store: then the listing of its objects decides
	}
	return fmt.Errorf("store: directory %s is not empty (%s is there): a volume needs a place of its own", dir, entries[0].Name())
}

// removeOwnFiles removes the driver's own files of a local store that holds no
// objects.
func removeOwnFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) != 1 || entries[0].Name() != storeOwnDir {
		return nil
	}
	return os.RemoveAll(filepath.Join(dir, storeOwnDir))
}

// removeStoreDir removes an emptied local store, unless other files lie in it.
func removeStoreDir(dir string) error {
	if err := removeOwnFiles(dir); err != nil {
		return err
	}
	err := os.Remove(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func isLocked(err error) bool { return errors.Is(err, kv.ErrLocked) }
