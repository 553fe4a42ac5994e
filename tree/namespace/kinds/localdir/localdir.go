// Package localdir mounts directories of the machine in a namespace: the kinds
// "local", "local-cached" and "local-dir-cached".
//
// Symbolic links are followed and shown as what they lead to, as long as that lies
// within the directory. A directory that does not exist yet is waited for: "local" gives
// ENOENT, the others an empty directory until it is there. Beyond that they
// are the same: the two cached kinds, which imitate clouds in the tests of the
// original, keep nothing here, so that changes underneath are seen at once.
//
// Where the parameter is-local-owner is false, the directory or one above it must name the
// storage's owner in a file .wildland-owners.
package localdir

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/tree/namespace"
	"github.com/massif-fs/massif/tree/namespace/kinds"
	"github.com/massif-fs/massif/vfs"
)

func init() {
	kinds.Register("local", maker(false))
	kinds.Register("local-cached", maker(true))
	kinds.Register("local-dir-cached", maker(true))
}

// OwnersFile names who may be the owner of storages in a directory and below it.
const OwnersFile = ".wildland-owners"

func maker(emptyWhileAbsent bool) kinds.Maker {
	return func(p *kinds.Params, env *kinds.Env) (namespace.Storage, error) {
		d := directory{point: env.Point}
		var err error
		// "path" is what manifests called it once.
		if d.location, err = p.String("location"); err == nil && d.location == "" {
			if d.location, err = p.String("path"); err == nil && d.location == "" {
				err = &kinds.KeyError{Key: "location"}
			}
		}
		if err != nil {
			return namespace.Storage{}, err
		}
		if !filepath.IsAbs(d.location) {
			return namespace.Storage{}, fmt.Errorf("location %q is not absolute", d.location)
		}
		if d.trusted, err = p.Bool("is-local-owner", true); err != nil {
			return namespace.Storage{}, err
		}
		if d.owner, err = p.String("owner"); err != nil {
			return namespace.Storage{}, err
		}
		if d.readOnly, err = p.Bool("read-only", false); err != nil {
			return namespace.Storage{}, err
		}
		return namespace.Storage{Open: d.open, EmptyWhileAbsent: emptyWhileAbsent}, nil
	}
}

// directory is what the parameters say.
type directory struct {
	location string
	point    string
	owner    string
	trusted  bool
	readOnly bool
}

func (d *directory) open(context.Context) (*namespace.Backend, error) {
	if !d.trusted {
		if err := CheckOwner(d.location, d.owner); err != nil {
			return nil, err
		}
	}
	info, err := os.Stat(d.location)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, namespace.Absent(fmt.Errorf("directory %s does not exist", d.location))
	case err != nil:
		return nil, fmt.Errorf("directory %s: %w", d.location, err)
	case !info.IsDir():
		return nil, fmt.Errorf("%s is not a directory", d.location)
	}
	root, err := filepath.EvalSymlinks(d.location)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", d.location, err)
	}
	if d.point != "" && (root == d.point || strings.HasPrefix(root, d.point+"/")) {
		return nil, fmt.Errorf("directory %s lies inside the namespace itself", d.location)
	}
	fs, err := local.Open(root, local.Options{ReadOnly: d.readOnly})
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", d.location, err)
	}
	w := &watcher{root: root}
	return &namespace.Backend{
		FS: fs, Token: token, Watch: w.watch, PathOf: fs.PathOf,
		Links: func(target string) (string, bool) { return within(root, d.location, target) },
	}, nil
}

// within turns an absolute path into one below a root, however that is written.
func within(root, alias, target string) (string, bool) {
	for _, base := range []string{root, filepath.Clean(alias)} {
		if target == base {
			return "", true
		}
		if rest, ok := strings.CutPrefix(target, strings.TrimSuffix(base, "/")+"/"); ok {
			return rest, true
		}
	}
	return "", false
}

// tokenAge is how old a file must be before its time of modification tells it from what
// is written to it next.
const tokenAge = time.Second

// token is the time of modification in milliseconds.
func token(_ context.Context, a *vfs.Attr) (string, error) {
	t := a.Mtime.Time()
	if a.Type() != syscall.S_IFREG || time.Since(t) < tokenAge {
		return "", nil
	}
	return strconv.FormatInt(t.UnixMilli(), 10), nil
}

// maxOwners bounds an owners file, in bytes.
const maxOwners = 1 << 20

// CheckOwner fails unless a directory or one above it has a file that names the owner,
// on a line of its own. '#' begins a comment.
func CheckOwner(dir, owner string) error {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		ok, err := named(filepath.Join(at, OwnersFile), owner)
		if err != nil {
			return err
		}
		if ok {
			return nil
		}
		if at == filepath.Dir(at) {
			return vfs.WithErrno(syscall.EACCES, fmt.Errorf("neither %s nor a directory above it names %s in a file %s", dir, owner, OwnersFile))
		}
	}
}

func named(file, owner string) (bool, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("owners file: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxOwners))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if owner != "" && strings.TrimSpace(line) == owner {
			return true, nil
		}
	}
	if err := lines.Err(); err != nil {
		return false, fmt.Errorf("owners file %s: %w", file, err)
	}
	return false, nil
}
